package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"
)

// layer is a tar that can be read more than once. open returns its bytes,
// decompressed; at their end, an error when they are not those that were
// asked for.
type layer struct {
	name  string // for messages
	whole bool   // it is no change of what is below: no name is a whiteout
	open  func() (io.ReadCloser, error)
}

// squashfsOfLayers makes a squashfs of layers, the lowest first. They are read
// twice: for their names, which memory holds, and for what is left of them.
func squashfsOfLayers(ctx context.Context, layers []layer, out string, epoch int64) (*Image, error) {
	t := tree{root: newFolder()}
	latest, mode := epoch, int64(0o755)
	headers := map[*inode]*tar.Header{} // of folders
	for i, l := range layers {
		changes, err := readLayer(ctx, l)
		if err != nil {
			return nil, err
		}
		if err := t.apply(i, changes, l.whole); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", l.name, err)
		}
		keepFolders(&t, i, changes, headers)
		for _, c := range changes {
			latest = max(latest, clamp(c.header.ModTime).Unix())
		}
	}
	if h := headers[t.root.inode]; h != nil {
		mode = h.Mode & 0o7777
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTree(ctx, &t, layers, headers, w)) }()
	defer r.Close()
	source := &firstError{r: r}
	err := squashfsOfTar(ctx, source, out, mode, latest)
	switch {
	case source.err != nil && ctx.Err() == nil: // rather than how the tool took it
		return nil, source.err
	case err != nil:
		return nil, err
	}
	return made(out)
}

// keepFolders keeps the headers of a layer's folders that are in the tree.
func keepFolders(t *tree, layer int, changes []change, headers map[*inode]*tar.Header) {
	byIndex := map[int]*tar.Header{}
	for _, c := range changes {
		if c.header.Typeflag == tar.TypeDir {
			byIndex[c.index] = c.header
		}
	}
	note := func(in *inode) {
		if in != nil && in.layer == layer {
			headers[in] = byIndex[in.entry]
		}
	}
	note(t.root.inode)
	t.folders(func(_ string, in *inode) error { note(in); return nil })
}

// readLayer returns a layer's entries.
func readLayer(ctx context.Context, l layer) ([]change, error) {
	var all []change
	kept := 0
	err := eachEntry(ctx, l, func(i int, h *tar.Header, _ io.Reader) error {
		if kept += keptOf(h); kept > maxKept {
			return fmt.Errorf("%w: its names alone have more than %d bytes", ErrTar, maxKept)
		}
		name, err := split(h.Name)
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeDir { // of a folder, all is needed
			h = &tar.Header{Name: h.Name, Typeflag: h.Typeflag, Linkname: h.Linkname, ModTime: h.ModTime}
		}
		all = append(all, change{i, h, name})
		return nil
	})
	return all, err
}

// keptOf returns about how many bytes of memory an entry takes.
func keptOf(h *tar.Header) int {
	n := 500 + len(h.Name) + len(h.Linkname)
	if h.Typeflag == tar.TypeDir {
		for key, value := range h.PAXRecords {
			n += len(key) + len(value)
		}
	}
	return n
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
		} else if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", ErrTar, err)
		}
		if err == nil {
			err = f(i, h, in)
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
		return fmt.Errorf("%w: %.80q is an entry of the unknown type %q", ErrTar, h.Name, h.Typeflag)
	}
	const most = 1<<32 - 2 // the largest ID that Linux has
	if h.Uid < 0 || h.Gid < 0 || h.Uid > most || h.Gid > most {
		return fmt.Errorf("%w: %.80q has the owner %d:%d", ErrTar, h.Name, h.Uid, h.Gid)
	}
	return nil
}

// writeTree writes one tar: the folders, then for each layer what is left of
// it, with all names of a file behind one another.
func writeTree(ctx context.Context, t *tree, layers []layer, headers map[*inode]*tar.Header, w io.Writer) error {
	out := tar.NewWriter(w)
	err := t.folders(func(name string, in *inode) error {
		h := headers[in]
		if h == nil { // in a tar that has files alone
			h = &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
		}
		return out.WriteHeader(renamed(h, name+"/"))
	})
	if err != nil {
		return err
	}
	names, err := t.files(len(layers))
	if err != nil {
		return err
	}
	for i, l := range layers {
		if err := copyLayer(ctx, l, names[i], out); err != nil {
			return err
		}
	}
	return out.Close()
}

// copyLayer copies what is left of a layer.
func copyLayer(ctx context.Context, l layer, names map[int][]string, out *tar.Writer) error {
	left := len(names)
	err := eachEntry(ctx, l, func(i int, h *tar.Header, r io.Reader) error {
		if names[i] == nil {
			return nil
		}
		left--
		if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeDir {
			return ErrChanged
		}
		return copyFile(names[i], h, r, out)
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("cannot read %s: %w", l.name, ErrChanged)
	}
	return err
}

// copyFile copies a file under its first name, and adds the others as links.
// The name it had comes first, when it is still there.
func copyFile(names []string, h *tar.Header, r io.Reader, out *tar.Writer) error {
	own := path.Clean(strings.TrimLeft(h.Name, "/"))
	for i, n := range names {
		if n == own {
			names[0], names[i] = names[i], names[0]
		}
	}
	if err := out.WriteHeader(renamed(h, names[0])); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse {
		if _, err := io.Copy(out, r); err != nil {
			return err
		}
	}
	for _, name := range names[1:] {
		link := renamed(h, name)
		link.Typeflag, link.Linkname, link.Size = tar.TypeLink, names[0], 0
		if err := out.WriteHeader(link); err != nil {
			return err
		}
	}
	return nil
}

// renamed returns a header with another name, as pax, which has room for all
// that was in it. Of the records, extended attributes stay.
func renamed(h *tar.Header, name string) *tar.Header {
	n := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid,
		ModTime: clamp(h.ModTime), Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX,
	}
	if n.Typeflag == tar.TypeGNUSparse {
		n.Typeflag = tar.TypeReg
	}
	for key, value := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.") {
			if n.PAXRecords == nil {
				n.PAXRecords = map[string]string{}
			}
			n.PAXRecords[key] = value
		}
	}
	return n
}

// clamp returns the nearest time that squashfs has: 32 bits since 1970.
func clamp(t time.Time) time.Time {
	return time.Unix(min(max(t.Unix(), 0), 1<<32-1), 0)
}

// firstError keeps the error, but for the end, that its reader came upon.
type firstError struct {
	r   io.Reader
	err error
}

func (f *firstError) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF && f.err == nil {
		f.err = err
	}
	return n, err
}

// tarLayer is a tar in a file.
func tarLayer(f *os.File, name string) layer {
	return layer{name: name, open: func() (io.ReadCloser, error) {
		return decompressed(io.NewSectionReader(f, 0, 1<<62))
	}}
}
