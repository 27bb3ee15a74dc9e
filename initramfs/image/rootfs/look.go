package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"
)

// Bounds of what a ready file system may have the tools do: whoever made it
// decides what they read.
const (
	maxHollow  = 64               // times its length, of all files; they may have holes
	leastRoom  = 256 << 20        // bytes that are always allowed
	lookWithin = 10 * time.Minute // for all of it
	maxListing = 64 << 20         // bytes of a folder's listing
	maxBatch   = 4 << 20          // bytes of files that are read together
)

// lookAt calls Look for a ready file system: an ext4's files are read by debugfs,
// as they are asked for; a squashfs is read as a tar. The files are those that the
// kernel would show, or there is an error.
func (o Options) lookAt(ctx context.Context, f *os.File, kind policy.FSType, size int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, errors.New("it takes too long to look through the file system"))
	defer cancel()
	var root *fsimage.Node
	var err error
	switch kind {
	case policy.Ext4:
		root, err = ext4{ctx: ctx, f: f}.node(2, "040755", "")
	case policy.EROFS:
		root, err = fsimage.EROFS(io.NewSectionReader(f, 0, size))
	default:
		t, l := newTree(), squashfsLayer(ctx, f, max(size*maxHollow, leastRoom))
		if err = t.readLayer(ctx, 0, l); err != nil {
			err = fmt.Errorf("%w: %w", fsimage.ErrCorrupt, err)
		}
		root = t.show(ctx, []layer{l}, t.root)
	}
	if err != nil {
		return fmt.Errorf("cannot look through the file system: %w", err)
	}
	return o.Look(root, kind)
}

// lookIn calls Look for a folder. No link leads out of it.
func (o Options) lookIn(dir string, kind policy.FSType) error {
	folder, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot look through the root file system: %w", err)
	}
	defer folder.Close()
	root, err := fsimage.Of(folder.FS().(fs.ReadLinkFS))
	if err != nil {
		return fmt.Errorf("cannot look through the root file system: %w", err)
	}
	return o.Look(root, kind)
}

// squashfsLayer is a squashfs as a tar, of at most room bytes.
func squashfsLayer(ctx context.Context, f *os.File, room int64) layer {
	return layer{name: "the squashfs", whole: true, open: func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			_, err := tool(ctx, f, nil, w, sqfs2tar, "--no-xattr", thisFile)
			w.CloseWithError(err)
		}()
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(r, room), r}, nil
	}}
}

// ext4 reads an ext4 through debugfs, by the numbers of its inodes, so that no
// name of the image is ever part of a command.
type ext4 struct {
	ctx context.Context
	f   *os.File
}

// ask returns what a command of debugfs prints, limit bytes at most. debugfs
// ends well when a command fails, but says so after its version.
func (e ext4) ask(limit int64, format string, args ...any) ([]byte, error) {
	out := &limited{left: limit}
	words, err := tool(e.ctx, e.f, nil, out, debugfs, "-R", fmt.Sprintf(format, args...), thisFile)
	if out.left == 0 {
		return out.kept, nil
	}
	if _, after, _ := strings.Cut(words, "\n"); err == nil && after != "" {
		err = fmt.Errorf("%w: %s: %.200q", fsimage.ErrCorrupt, debugfs, after)
	}
	return out.kept, err
}

// node returns the node of an inode, of which a folder's listing says mode, in
// octal, and size.
func (e ext4) node(inode uint64, mode, size string) (*fsimage.Node, error) {
	bits, err := strconv.ParseUint(mode, 8, 16)
	length := int64(0)
	if err == nil && size != "" {
		length, err = strconv.ParseInt(size, 10, 64)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s says %.40q and %.40q of an inode", fsimage.ErrCorrupt, debugfs, mode, size)
	}
	n := &fsimage.Node{Mode: unixMode(int64(bits)), Size: length}
	n.Names = sync.OnceValues(func() (map[string]*fsimage.Node, error) { return e.names(inode) })
	n.Data = sync.OnceValues(func() ([]byte, error) {
		if n.Mode.Type() == fs.ModeSymlink {
			return e.link(inode, length)
		}
		return e.cat(inode, min(length, fsimage.MaxData))
	})
	return n, nil
}

// unixMode turns a mode as stat(2) has it into Go's.
func unixMode(m int64) fs.FileMode { return (&tar.Header{Mode: m}).FileInfo().Mode() }

func (e ext4) cat(inode uint64, n int64) ([]byte, error) {
	data, err := e.ask(n, "cat <%d>", inode)
	if err == nil && int64(len(data)) < n {
		err = fmt.Errorf("%w: a file ends after %d bytes, and not after %d", fsimage.ErrCorrupt, len(data), n)
	}
	return data, err
}

// names reads "/inode/mode/uid/gid/name/size/\n" for each entry. A name can have
// anything in it but a slash, so the slashes tell where it ends.
func (e ext4) names(inode uint64) (map[string]*fsimage.Node, error) {
	text, err := e.ask(maxListing, "ls -p <%d>", inode)
	if err != nil {
		return nil, err
	}
	out := map[string]*fsimage.Node{}
	// Who asks for one small file mostly asks for others of the folder, and starting
	// debugfs takes longer than reading a file.
	small, total := map[uint64]int64{}, int64(0)
	readSmall := sync.OnceValues(func() (map[uint64][]byte, error) { return e.catAll(small) })
	for rest := string(text); rest != "" && rest != "\n"; { // a blank line is the end
		f := strings.SplitN(rest, "/", 8)
		if len(f) != 8 || f[0] != "" || !strings.HasPrefix(f[7], "\n") {
			return nil, fmt.Errorf("%w: a folder with the entry %.80q", fsimage.ErrCorrupt, rest)
		}
		rest = f[7][1:]
		number, err := strconv.ParseUint(f[1], 10, 32)
		name := f[5]
		switch {
		case err != nil || out[name] != nil || name == "" || strings.Contains(name, "\x00"):
			return nil, fmt.Errorf("%w: a folder with the entry %.80q", fsimage.ErrCorrupt, name)
		case name == "." || name == ".." || number == 0:
			continue
		}
		if out[name], err = e.node(number, f[2], f[6]); err != nil {
			return nil, err
		}
		if n := out[name]; n.Mode.IsRegular() && n.Size > 0 && n.Size <= smallFile && total < maxBatch {
			total += n.Size
			small[number] = n.Size
			n.Data = func() ([]byte, error) { all, err := readSmall(); return all[number], err }
		}
	}
	return out, nil
}

// catAll returns the bytes of files, by their inodes, whose sizes are given.
func (e ext4) catAll(sizes map[uint64]int64) (map[uint64][]byte, error) {
	var script strings.Builder
	inodes := slices.Sorted(maps.Keys(sizes))
	for _, inode := range inodes {
		fmt.Fprintf(&script, "cat <%d>\n", inode)
	}
	out := &limited{left: maxListing}
	words, err := tool(e.ctx, e.f, strings.NewReader(script.String()), out, debugfs, "-f", "-", thisFile)
	all := map[uint64][]byte{}
	rest := out.kept
	for _, inode := range inodes { // it says each command before it follows it
		var ok bool
		if rest, ok = bytes.CutPrefix(rest, fmt.Appendf(nil, "debugfs: cat <%d>\n", inode)); !ok || int64(len(rest)) < sizes[inode] {
			break
		}
		all[inode], rest = rest[:sizes[inode]], rest[sizes[inode]:]
	}
	if _, after, _ := strings.Cut(words, "\n"); err == nil && (after != "" || len(all) != len(inodes) || len(rest) > 0) {
		err = fmt.Errorf("%w: %s: %.200q", fsimage.ErrCorrupt, debugfs, after)
	}
	return all, err
}

// link returns the text of a symbolic link: short ones lie in the inode.
func (e ext4) link(inode uint64, length int64) ([]byte, error) {
	if length < 1 || length > maxTarget {
		return nil, fmt.Errorf("%w: a symbolic link of %d bytes", fsimage.ErrCorrupt, length)
	}
	text, err := e.ask(maxListing, "stat <%d>", inode)
	if err != nil {
		return nil, err
	}
	if _, after, ok := bytes.Cut(text, []byte("Fast link dest: \"")); ok && int64(len(after)) >= length {
		return after[:length], nil
	}
	return e.cat(inode, length)
}

// limited keeps so many bytes, and then ends who writes. It is no bytes.Buffer, whose
// ReadFrom would take all that there is.
type limited struct {
	kept []byte
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(int64(len(p)), l.left)
	l.kept = append(l.kept, p[:n]...)
	if l.left -= n; l.left == 0 {
		return int(n), io.ErrShortWrite
	}
	return int(n), nil
}
