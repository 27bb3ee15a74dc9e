package rootfs

import (
	"archive/tar"
	"context"
	_ "crypto/sha512" // go-digest's sha384 and sha512
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cocoroot/initramfs/strictjson"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxJSON  = 4 << 20 // bytes of an index, a manifest or a config
	maxNests = 4       // indexes in one another
	// maxIndexes is how many indexes are read: they may be in one another many times.
	maxIndexes = 100
	// maxLayers is how many layers an image may have; a runtime mounts up to 500.
	maxLayers = 500
	// maxBlobs is how many files an archive of a layout may have.
	maxBlobs = 10000
)

// The platform that an image is for.
const (
	wantOS   = "linux"
	wantArch = "amd64"
)

// layers returns the layers of an OCI image layout's image and how it is to run, or
// those of a tar: the tar itself, in which no name is a whiteout, or those of the
// layout that it is the archive of.
func (o Options) layers(ctx context.Context, s *source, dir string) ([]layer, *v1.ImageConfig, error) {
	if s.layout != "" {
		return layoutLayers(ctx, s.layout, o.Image)
	}
	whole := tarLayer(s.file, "the tar")
	unpacked := filepath.Join(dir, "layout")
	seen, err := unpackLayout(ctx, whole, unpacked)
	switch {
	case err != nil:
		return nil, nil, err
	case seen["root"]:
	case seen[v1.ImageLayoutFile] && seen[v1.ImageIndexFile]:
		return layoutLayers(ctx, unpacked, o.Image)
	case seen[dockerManifest]:
		return layout{unpacked}.dockerLayers(o.Image)
	}
	whole.whole = true
	return []layer{whole}, nil, nil
}

// errSeen ends a look at a tar early.
var errSeen = errors.New("seen enough")

// unpackLayout writes the files of a layout's archive, under names that are
// checked, and returns what it has seen. All names of a layout and of docker's
// archive are known; a root that has other names, too, is a root.
func unpackLayout(ctx context.Context, l layer, dir string) (map[string]bool, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot unpack the OCI archive: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the OCI archive: %w", err)
	}
	defer root.Close()
	seen, written := map[string]bool{}, 0
	err = eachEntry(ctx, l, func(_ int, h *tar.Header, r io.Reader) error {
		name := path.Clean("/" + h.Name)[1:]
		top, rest, _ := strings.Cut(name, "/")
		switch {
		case h.Typeflag == tar.TypeDir, name == "repositories", rest == "VERSION", rest == "json":
			return nil
		case name == v1.ImageLayoutFile, name == v1.ImageIndexFile, name == dockerManifest, top == v1.ImageBlobsDir:
			seen[top] = true
		case rest == "layer.tar", rest == "" && dockerName.MatchString(name):
		default:
			seen["root"] = true
			return errSeen
		}
		isLink := h.Typeflag == tar.TypeSymlink && rest == "layer.tar" // to a layer that is there already
		if h.Typeflag != tar.TypeReg && !isLink {
			return nil
		}
		if written++; written > maxBlobs {
			return fmt.Errorf("%w: it has more than %d files", ErrOCI, maxBlobs)
		}
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if isLink {
			return root.Symlink(h.Linkname, name)
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(f, r)
		return err
	})
	if errors.Is(err, errSeen) {
		err = nil
	}
	return seen, err
}

// layout is an OCI image layout in a folder (image-spec v1.1.1,
// image-layout.md).
type layout struct{ dir string }

// layoutLayers returns the layers of one image of a layout, and how it is to run.
func layoutLayers(ctx context.Context, dir, which string) ([]layer, *v1.ImageConfig, error) {
	l := layout{dir}
	manifest, err := l.find(which)
	if err != nil {
		return nil, nil, err
	}
	var config v1.Image
	if err := l.readJSON(manifest.Config, &config); err != nil {
		return nil, nil, err
	}
	if err := checkPlatform(config); err != nil {
		return nil, nil, err
	}
	var layers []layer
	for _, d := range manifest.Layers {
		if !strings.Contains(d.MediaType, "tar") {
			return nil, nil, fmt.Errorf("%w: a layer is of the unknown type %.80q", ErrOCI, d.MediaType)
		}
		layers = append(layers, layer{name: "layer " + d.Digest.String(), open: func() (io.ReadCloser, error) { return l.openLayer(d) }})
	}
	if len(layers) > maxLayers {
		return nil, nil, fmt.Errorf("%w: the image has %d layers; %d are read at most", ErrOCI, len(layers), maxLayers)
	}
	if len(layers) == 0 {
		return nil, nil, fmt.Errorf("%w: the image has no layers", ErrOCI)
	}
	return layers, &config.Config, ctx.Err()
}

func checkPlatform(config v1.Image) error {
	if config.OS != "" && config.OS != wantOS || config.Architecture != "" && config.Architecture != wantArch {
		return fmt.Errorf("%w: the image is for %s/%s, a guest is %s/%s", ErrOCI, config.OS, config.Architecture, wantOS, wantArch)
	}
	return nil
}

// find returns the manifest of the image that is meant.
func (l layout) find(which string) (v1.Manifest, error) {
	var index v1.Index
	var manifest v1.Manifest
	f, err := os.Open(filepath.Join(l.dir, v1.ImageIndexFile))
	if err != nil {
		return manifest, fmt.Errorf("%w: %w", ErrOCI, err)
	}
	defer f.Close()
	if err := decodeJSON(f, v1.ImageIndexFile, &index); err != nil {
		return manifest, err
	}
	images, err := l.images(index.Manifests, which, maxNests, new(int))
	if err != nil {
		return manifest, err
	}
	switch {
	case len(images) == 1:
		return manifest, l.readJSON(images[0], &manifest)
	case len(images) == 0 && which == "":
		return manifest, fmt.Errorf("%w: it has no image for %s/%s", ErrOCI, wantOS, wantArch)
	case len(images) == 0:
		return manifest, fmt.Errorf("%w: it has no image %.80q for %s/%s; it has %s", ErrOCI, which, wantOS, wantArch, l.names(index))
	}
	return manifest, fmt.Errorf("%w: it has %d images, %s; say which one", ErrOCI, len(images), l.names(index))
}

// images returns the manifests that are meant, of an index and of those in it, and counts
// the indexes that it reads.
func (l layout) images(all []v1.Descriptor, which string, nests int, read *int) ([]v1.Descriptor, error) {
	var found []v1.Descriptor
	for _, d := range all {
		named := which == "" || d.Annotations[v1.AnnotationRefName] == which || d.Digest.String() == which
		switch {
		case strings.HasSuffix(d.MediaType, ".index.v1+json"), strings.HasSuffix(d.MediaType, ".manifest.list.v2+json"):
			if *read++; nests == 0 || *read > maxIndexes {
				return nil, fmt.Errorf("%w: its indexes are nested too deep, or are more than %d", ErrOCI, maxIndexes)
			}
			var index v1.Index
			if err := l.readJSON(d, &index); err != nil {
				return nil, err
			}
			inside := which
			if named {
				inside = ""
			}
			more, err := l.images(index.Manifests, inside, nests-1, read)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
		case named && forUs(d.Platform) && d.ArtifactType == "":
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b v1.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return slices.CompactFunc(found, func(a, b v1.Descriptor) bool { return a.Digest == b.Digest }), nil
}

// forUs reports whether a manifest may be for the guest's platform; a single one
// in a layout often does not say. An attestation is for "unknown".
func forUs(p *v1.Platform) bool {
	return p == nil || p.OS == wantOS && p.Architecture == wantArch
}

// names lists what can be asked for.
func (l layout) names(index v1.Index) string {
	var all []string
	for _, d := range index.Manifests[:min(len(index.Manifests), 20)] {
		name := d.Annotations[v1.AnnotationRefName]
		if name == "" {
			name = d.Digest.String()
		}
		all = append(all, fmt.Sprintf("%.80q", name))
	}
	return strings.Join(all, ", ")
}

// readJSON reads a blob that is JSON, once its digest is known to be right.
func (l layout) readJSON(d v1.Descriptor, to any) error {
	r, err := l.openBlob(d)
	if err != nil {
		return err
	}
	defer r.Close()
	return decodeJSON(r, d.Digest.String(), to)
}

func decodeJSON(r io.Reader, name string, to any) error {
	text, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return err
	}
	if len(text) > maxJSON {
		return fmt.Errorf("%w: %.80q has more than %d bytes", ErrOCI, name, maxJSON)
	}
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("%w: %.80q: %w", ErrOCI, name, strictjson.Plain(err))
	}
	return nil
}

// openBlob opens a blob. Its reader fails at the end when digest or size are
// not the descriptor's.
func (l layout) openBlob(d v1.Descriptor) (*blob, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: a digest is malformed: %w", ErrOCI, err)
	}
	f, err := os.Open(filepath.Join(l.dir, v1.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOCI, err)
	}
	return &blob{f: f, want: d.Digest, left: d.Size, sum: d.Digest.Verifier()}, nil
}

func (l layout) openLayer(d v1.Descriptor) (io.ReadCloser, error) {
	b, err := l.openBlob(d)
	if err != nil {
		return nil, err
	}
	r, err := decompressed(b)
	if err != nil {
		b.Close()
		return nil, err
	}
	return &layerReader{r, b}, nil
}

// blob reads a blob and hashes it.
type blob struct {
	f    io.ReadCloser
	want digest.Digest
	left int64 // bytes; it is no longer than that
	sum  digest.Verifier
}

func (b *blob) Read(p []byte) (int, error) {
	n, err := b.f.Read(p)
	b.sum.Write(p[:n])
	if b.left -= int64(n); b.left < 0 || err == io.EOF && !b.sum.Verified() {
		return 0, fmt.Errorf("%w: a blob is not what its digest %s and its size say", ErrOCI, b.want)
	}
	return n, err
}

func (b *blob) Close() error { return b.f.Close() }

// layerReader reads a decompressed layer, and the rest of its blob after the
// end of what is compressed.
type layerReader struct {
	io.ReadCloser
	blob *blob
}

func (l *layerReader) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err == io.EOF {
		if _, rest := io.Copy(io.Discard, l.blob); rest != nil {
			err = rest
		}
	}
	return n, err
}

func (l *layerReader) Close() error {
	return errors.Join(l.ReadCloser.Close(), l.blob.Close())
}
