package rootfs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerManifest lists the images of an archive as docker save made it before release
// 25, and podman save and skopeo make it (Docker Image Specification v1.2.0).
const dockerManifest = "manifest.json"

// dockerName is what the files of such an archive are called, but for X/layer.tar.
var dockerName = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|[0-9a-z]+\.(json|tar|tar\.gz))$`)

// dockerLayers returns the layers of one image of docker's own archive, and how it is
// to run. The configuration has the digest of each layer.
func (l layout) dockerLayers(which string) ([]layer, *v1.ImageConfig, error) {
	var all, found []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := l.readFile(dockerManifest, &all); err != nil {
		return nil, nil, err
	}
	var tags []string
	for _, image := range all {
		tags = append(tags, image.RepoTags...)
		if which == "" || slices.ContainsFunc(image.RepoTags, func(tag string) bool { return tag == which || strings.HasSuffix(tag, ":"+which) }) {
			found = append(found, image)
		}
	}
	switch has := tags[:min(len(tags), 20)]; {
	case len(all) == 0:
		return nil, nil, fmt.Errorf("%w: it has no image", ErrOCI)
	case len(found) == 0:
		return nil, nil, fmt.Errorf("%w: it has no image %.80q; it has %.200q", ErrOCI, which, has)
	case len(found) > 1:
		return nil, nil, fmt.Errorf("%w: it has %d images, %.200q; say which one", ErrOCI, len(found), has)
	}
	var config v1.Image
	if err := l.readFile(found[0].Config, &config); err != nil {
		return nil, nil, err
	}
	if err := checkPlatform(config); err != nil {
		return nil, nil, err
	}
	names, sums := found[0].Layers, config.RootFS.DiffIDs
	if len(names) == 0 || len(names) != len(sums) || len(names) > maxLayers {
		return nil, nil, fmt.Errorf("%w: it has %d layers, and the digests of %d", ErrOCI, len(names), len(sums))
	}
	var layers []layer
	for i, sum := range sums {
		if err := sum.Validate(); err != nil {
			return nil, nil, fmt.Errorf("%w: a digest is malformed: %w", ErrOCI, err)
		}
		layers = append(layers, layer{name: "layer " + sum.String(), open: func() (io.ReadCloser, error) {
			f, err := os.OpenInRoot(l.dir, names[i])
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrOCI, err)
			}
			plain, err := decompressed(f)
			if err != nil {
				f.Close()
				return nil, err
			}
			return &blob{f: both{plain, f}, want: sum, left: math.MaxInt64, sum: sum.Verifier()}, nil
		}})
	}
	return layers, &config.Config, nil
}

// both closes what it reads, and what that reads.
type both struct {
	io.ReadCloser
	below io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.below.Close()) }

// readFile reads a file that is JSON, which nothing authenticates. No link leads out of
// the archive, here and for layers.
func (l layout) readFile(name string, to any) error {
	f, err := os.OpenInRoot(l.dir, name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOCI, err)
	}
	defer f.Close()
	return decodeJSON(f, name, to)
}
