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

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"
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
func squashfsOfLayers(ctx context.Context, layers []layer, entrypoint []string, out string, o Options) (*Image, error) {
	t := tree{root: newFolder()}
	m := merge{root: rootFolder{mode: 0o755, time: uint32(o.Epoch), ids: idsOf(uint32(os.Geteuid()), uint32(os.Getegid()))}}
	m.headers = map[*inode]*tar.Header{}
	for i, l := range layers {
		changes, err := m.readLayer(ctx, &t, l)
		if err != nil {
			return nil, err
		}
		if err := t.apply(i, changes, l.whole); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", l.name, err)
		}
		keepFolders(&t, i, changes, m.headers)
	}
	if h := m.headers[t.root.inode]; h != nil {
		n, err := m.renamed(h, "./")
		if err != nil {
			return nil, err
		}
		m.root.mode, m.root.time = n.Mode, uint32(n.ModTime.Unix())
		if len(n.PAXRecords) > 0 {
			m.notes.add("extended attributes", "/")
		}
	}
	look := &layersTree{ctx: ctx, layers: layers, tree: &t, kept: map[*inode][]byte{}}
	if o.Look != nil {
		m.keep = look.wanted(o.Program)
	}
	m.kept = look.kept
	r, w := io.Pipe()
	go func() { w.CloseWithError(m.writeTree(ctx, &t, layers, w)) }()
	defer r.Close()
	source := &firstError{r: r}
	err := squashfsOfTar(ctx, source, out, m.root, o)
	switch {
	case source.err != nil && ctx.Err() == nil: // rather than how the tool took it
		return nil, source.err
	case err != nil:
		return nil, err
	}
	if err := o.look(fsimage.Tree{Root: look.node(t.root)}, policy.Squashfs, entrypoint); err != nil {
		return nil, err
	}
	image, err := made(out)
	if err != nil {
		return nil, err
	}
	image.Warnings = m.notes.texts()
	return image, nil
}

// merge is what is known of layers beside their tree.
type merge struct {
	root    rootFolder
	headers map[*inode]*tar.Header // of folders
	notes   notes
	keep    map[place]*inode  // of which files the bytes are kept
	kept    map[*inode][]byte // and these are they
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
func (m *merge) readLayer(ctx context.Context, t *tree, l layer) ([]change, error) {
	var all []change
	err := eachEntry(ctx, l, func(i int, h *tar.Header, _ io.Reader) error {
		if err := t.keep(keptOf(h)); err != nil {
			return err
		}
		name, err := split(h.Name)
		if err != nil {
			return err
		}
		data, err := metadataOf(h)
		if err != nil {
			return err
		}
		for _, d := range data.dropped {
			m.notes.add(d, h.Name)
		}
		if h.Typeflag != tar.TypeDir { // of a folder, all is needed
			h = &tar.Header{Name: h.Name, Typeflag: h.Typeflag, Linkname: h.Linkname, Mode: h.Mode, Size: h.Size}
		}
		all = append(all, change{i, h, name})
		return nil
	})
	return all, err
}

// keptOf returns about how many bytes of memory an entry takes.
func keptOf(h *tar.Header) int {
	n := 500 + 2*len(h.Name) + len(h.Linkname) + 16*strings.Count(h.Name, "/")
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
	device := h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock
	switch {
	case h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID:
		return fmt.Errorf("%w: %.80q has the owner %d:%d", ErrTar, h.Name, h.Uid, h.Gid)
	case h.Typeflag == tar.TypeSymlink && (h.Linkname == "" || len(h.Linkname) > maxTarget || strings.Contains(h.Linkname, "\x00")):
		return fmt.Errorf("%w: %.80q is a symbolic link to %d bytes; Linux has 1 to %d", ErrTar, h.Name, len(h.Linkname), maxTarget)
	case device && (h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor):
		return fmt.Errorf("%w: %.80q is the device %d:%d; Linux has up to %d:%d", ErrTar, h.Name, h.Devmajor, h.Devminor, maxMajor, maxMinor)
	}
	return nil
}

// writeTree writes one tar: the folders, then for each layer what is left of
// it, with all names of a file after one another.
func (m *merge) writeTree(ctx context.Context, t *tree, layers []layer, w io.Writer) error {
	out := tar.NewWriter(w)
	err := t.folders(func(name string, in *inode) error {
		h := m.headers[in]
		if h == nil { // in a tar that has only files
			h = &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
		}
		n, err := m.renamed(h, name+"/")
		if err != nil {
			return err
		}
		return out.WriteHeader(n)
	})
	if err != nil {
		return err
	}
	names, err := t.files(len(layers))
	if err != nil {
		return err
	}
	for i, l := range layers {
		if err := m.copyLayer(ctx, i, l, names[i], out); err != nil {
			return err
		}
	}
	return out.Close()
}

// copyLayer copies what is left of a layer.
func (m *merge) copyLayer(ctx context.Context, layer int, l layer, names map[int][]string, out *tar.Writer) error {
	left := len(names)
	err := eachEntry(ctx, l, func(i int, h *tar.Header, r io.Reader) error {
		if names[i] == nil {
			return nil
		}
		left--
		if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeDir {
			return ErrChanged
		}
		if in := m.keep[place{layer, i}]; in != nil {
			data := &limited{left: maxData}
			defer func() { m.kept[in] = data.Bytes() }()
			r = io.TeeReader(r, anyway{data})
		}
		return m.copyFile(names[i], h, r, out)
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("cannot read %s: %w", l.name, ErrChanged)
	}
	return err
}

// copyFile copies a file under its first name, and adds the others as links.
// The name it had comes first, when it is still there.
func (m *merge) copyFile(names []string, h *tar.Header, r io.Reader, out *tar.Writer) error {
	own := path.Clean(strings.TrimLeft(h.Name, "/"))
	for i, n := range names {
		if n == own {
			names[0], names[i] = names[i], names[0]
		}
	}
	first, err := m.renamed(h, names[0])
	if err != nil {
		return err
	}
	if err := out.WriteHeader(first); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse {
		if _, err := io.Copy(out, r); err != nil {
			return err
		}
	}
	for _, name := range names[1:] {
		link := *first
		link.Name, link.Typeflag, link.Linkname, link.Size = name, tar.TypeLink, names[0], 0
		if err := out.WriteHeader(&link); err != nil {
			return err
		}
	}
	return nil
}

// renamed returns a header with another name, as pax, which has room for all
// that was in it and that squashfs keeps.
func (m *merge) renamed(h *tar.Header, name string) (*tar.Header, error) {
	data, err := metadataOf(h)
	if err != nil {
		return nil, err
	}
	n := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & data.mask,
		Uid: int(replaced(m.root.ids.in, uint32(h.Uid))), Gid: int(replaced(m.root.ids.in, uint32(h.Gid))),
		ModTime: clamp(h.ModTime), Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX, PAXRecords: data.kept,
	}
	if n.Typeflag == tar.TypeGNUSparse {
		n.Typeflag = tar.TypeReg
	}
	return n, nil
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
