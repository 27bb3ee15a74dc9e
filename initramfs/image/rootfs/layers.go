package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer is a tar that can be read more than once. open returns its bytes,
// decompressed; at their end, an error when they are not those that were
// asked for.
type layer struct {
	name  string // for messages
	whole bool   // it is not a change of what is below: no name is a whiteout
	open  func() (io.ReadCloser, error)
}

// squashfsOfLayers makes a squashfs of layers, the lowest first. They are read
// twice: for their names, which memory holds, and for what is left of them.
func squashfsOfLayers(ctx context.Context, layers []layer, config *v1.ImageConfig, out string, o Options) (*Image, error) {
	t := newTree()
	for i, l := range layers {
		if err := t.readLayer(ctx, i, l); err != nil {
			return nil, err
		}
	}
	if o.Container != nil && config != nil {
		text, err := o.Container(t.show(ctx, layers, t.root), *config)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer{name: "what is laid over the image", whole: true, open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(text)), nil
		}})
		if err := t.readLayer(ctx, len(layers)-1, layers[len(layers)-1]); err != nil {
			return nil, err
		}
	}
	if o.Look != nil {
		if err := o.Look(t.show(ctx, layers, t.root), policy.Squashfs); err != nil {
			return nil, err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make the file system: %w", err)
	}
	wrote := make(chan error, 1)
	go func() {
		err := t.write(ctx, layers, o.Epoch, w)
		w.Close()
		wrote <- err
	}()
	err = squashfsOfTar(ctx, r, out, o)
	r.Close()
	if source := <-wrote; source != nil && !errors.Is(source, syscall.EPIPE) && ctx.Err() == nil {
		return nil, source // rather than how the tool took it
	}
	if err != nil {
		return nil, err
	}
	image, err := made(out)
	if err != nil {
		return nil, err
	}
	image.Warnings = t.notes.texts()
	return image, nil
}

func (t *tree) readLayer(ctx context.Context, number int, l layer) error {
	return eachEntry(ctx, l, func(i int, h *tar.Header, r io.Reader) error {
		return t.apply(place{number, i}, h, r, l.whole)
	})
}

// eachEntry reads a layer to its very end.
func eachEntry(ctx context.Context, l layer, f func(i int, h *tar.Header, r io.Reader) error) error {
	r, err := l.open()
	if err != nil {
		return err
	}
	defer r.Close()
	in := tar.NewReader(r)
	for i := 0; ; i++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = checkHeader(h)
		} else if errors.Is(err, tar.ErrHeader) {
			err = fmt.Errorf("%w: where an entry should begin is something else", errTar)
		}
		if err == nil {
			err = f(i, h, in)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: it ends too early", errTar)
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", l.name, err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("cannot read %s: %w", l.name, err)
	}
	return nil
}

// checkHeader refuses what no root file system has.
func checkHeader(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeGNUSparse:
	case tar.TypeCont, '\x00': // POSIX.1-1988: as a file
		h.Typeflag = tar.TypeReg
	default:
		return fmt.Errorf("%w: %.80q is an entry of the unknown type %q", errTar, h.Name, h.Typeflag)
	}
	device := h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock
	switch {
	case h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID:
		return fmt.Errorf("%w: %.80q has the owner %d:%d", errTar, h.Name, h.Uid, h.Gid)
	case h.Typeflag == tar.TypeSymlink && (h.Linkname == "" || len(h.Linkname) > maxTarget || strings.Contains(h.Linkname, "\x00")):
		return fmt.Errorf("%w: %.80q is a symbolic link to %d bytes; Linux has 1 to %d", errTar, h.Name, len(h.Linkname), maxTarget)
	case device && (h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor):
		return fmt.Errorf("%w: %.80q is the device %d:%d; Linux has up to %d:%d", errTar, h.Name, h.Devmajor, h.Devminor, maxMajor, maxMinor)
	}
	return nil
}

// write writes one tar: the root, which belongs to root, and the other folders, then
// for each layer what is left of it, with all names of a file after one another.
func (t *tree) write(ctx context.Context, layers []layer, epoch int64, w io.Writer) error {
	out := tar.NewWriter(w)
	files, buf := map[place]*inode{}, make([]byte, 256<<10)
	unsaid := &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX} // in a tar that has only files
	top := *unsaid
	top.ModTime = time.Unix(epoch, 0)
	if t.root.inode != nil {
		top = *t.root.inode.header
	}
	top.Name, top.Uid, top.Gid = "./", 0, 0
	if err := out.WriteHeader(&top); err != nil {
		return err
	}
	err := walk(t.root, "", func(name string, n *node) error {
		if n.children == nil {
			n.inode.names = append(n.inode.names, name)
			files[n.inode.place] = n.inode
			return nil
		}
		h := *unsaid
		if n.inode != nil {
			h = *n.inode.header
		}
		h.Name = name + "/"
		return out.WriteHeader(&h)
	})
	if err != nil {
		return err
	}
	for i, l := range layers {
		err := eachEntry(ctx, l, func(entry int, h *tar.Header, r io.Reader) error {
			in := files[place{i, entry}]
			if in == nil {
				return nil
			}
			delete(files, in.place)
			if in.header.Size != h.Size || isRegular(h) != isRegular(in.header) {
				return ErrChanged
			}
			return in.copy(r, out, buf)
		})
		if err != nil {
			return err
		}
	}
	if len(files) > 0 {
		return fmt.Errorf("cannot read the layers: %w", ErrChanged)
	}
	return out.Close()
}

// copy copies a file under its first name, and adds the others as links. The
// name it had comes first, when it is still there.
func (in *inode) copy(r io.Reader, out *tar.Writer, buf []byte) error {
	if i := slices.Index(in.names, path.Clean(strings.TrimLeft(in.header.Name, "/"))); i > 0 {
		in.names[0], in.names[i] = in.names[i], in.names[0]
	}
	h := *in.header
	h.Name = in.names[0]
	if err := out.WriteHeader(&h); err != nil {
		return err
	}
	if isRegular(&h) {
		if _, err := io.CopyBuffer(out, r, buf); err != nil {
			return err
		}
	}
	for _, name := range in.names[1:] {
		h.Name, h.Typeflag, h.Linkname, h.Size = name, tar.TypeLink, in.names[0], 0
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
	}
	return nil
}

// written returns a header as pax, which has room for all that was in it and that
// squashfs keeps, and notes what squashfs does not keep.
func (t *tree) written(h *tar.Header) (*tar.Header, error) {
	data, err := metadataOf(h)
	if err != nil {
		return nil, err
	}
	for _, d := range data.dropped {
		t.notes.add(d, h.Name)
	}
	n := &tar.Header{
		Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & data.mask,
		Uid: h.Uid, Gid: h.Gid, ModTime: clamp(h.ModTime), Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX, PAXRecords: data.kept,
	}
	if n.Typeflag == tar.TypeGNUSparse {
		n.Typeflag = tar.TypeReg
	}
	return n, nil
}

// show shows what layers come to. Bytes that are not kept are read from their
// layer once more.
func (t *tree) show(ctx context.Context, layers []layer, n *node) *fsimage.Node {
	if n.children != nil {
		mode := int64(0o755)
		if n.inode != nil {
			mode = n.inode.header.Mode
		}
		return &fsimage.Node{Mode: unixMode(0o040000 | mode&0o7777), Names: sync.OnceValues(func() (map[string]*fsimage.Node, error) {
			names := make(map[string]*fsimage.Node, len(n.children))
			for name, child := range n.children {
				names[name] = t.show(ctx, layers, child)
			}
			return names, nil
		})}
	}
	in := n.inode
	out := &fsimage.Node{Mode: in.header.FileInfo().Mode(), Size: in.header.Size}
	out.Data = func() ([]byte, error) { return in.read(ctx, layers[in.layer]) }
	if in.header.Typeflag == tar.TypeSymlink {
		out.Data = func() ([]byte, error) { return []byte(in.header.Linkname), nil }
	}
	return out
}

// read returns the beginning of a file.
func (in *inode) read(ctx context.Context, l layer) ([]byte, error) {
	if in.data != nil || in.header.Size == 0 {
		return in.data, nil
	}
	err := eachEntry(ctx, l, func(i int, _ *tar.Header, r io.Reader) (err error) {
		if i == in.entry {
			if in.data, err = io.ReadAll(io.LimitReader(r, fsimage.MaxData)); err == nil {
				err = errSeen
			}
		}
		return err
	})
	if !errors.Is(err, errSeen) {
		return nil, fmt.Errorf("cannot read %s: %w", l.name, errors.Join(ErrChanged, err))
	}
	return in.data, nil
}

// clamp returns the nearest time that squashfs has: 32 bits since 1970.
func clamp(t time.Time) time.Time {
	return time.Unix(min(max(t.Unix(), 0), 1<<32-1), 0)
}

func tarLayer(f *os.File, name string) layer {
	return layer{name: name, open: func() (io.ReadCloser, error) {
		return decompressed(io.NewSectionReader(f, 0, 1<<62))
	}}
}
