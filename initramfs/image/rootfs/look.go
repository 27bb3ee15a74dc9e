package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
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
	maxData    = 4 << 20          // bytes that are read of a file, from its beginning
)

// readyTree shows the files of a ready file system: an ext4's by debugfs, as they
// are asked for; a squashfs and an erofs are unpacked into dir. The files are those
// that the kernel would show, or there is an error.
func readyTree(ctx context.Context, f *os.File, kind policy.FSType, size int64, dir string) (fs.ReadLinkFS, func(), error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, errors.New("it takes too long to look through the file system"))
	if kind == policy.Ext4 {
		e := ext4{ctx: ctx, f: f}
		root, err := e.node(2, "040755", "")
		return fsimage.Tree{Root: root}, cancel, err
	}
	defer cancel()
	dir = filepath.Join(dir, "look")
	unpack := unpackSquashfs
	if kind == policy.EROFS {
		unpack = unpackEROFS
	}
	if err := unpack(ctx, f, max(size*maxHollow, leastRoom), dir); err != nil {
		return nil, cancel, fmt.Errorf("cannot look through the file system: %w", err)
	}
	if os.Geteuid() != 0 { // who reads what is readable by nobody; chmod follows no link here
		if _, err := tool(ctx, nil, nil, nil, "chmod", "-R", "u+rX", dir); err != nil {
			return nil, cancel, fmt.Errorf("cannot look through the file system: %w", err)
		}
	}
	tree, closed, err := folderTree(dir)
	return tree, closed, err
}

// folderTree shows the files of a folder. No link leads out of it.
func folderTree(dir string) (fs.ReadLinkFS, func(), error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, func() {}, fmt.Errorf("cannot look through the root file system: %w", err)
	}
	return root.FS().(fs.ReadLinkFS), func() { root.Close() }, nil
}

// errRoom is for files that are longer than they can be.
var errRoom = fmt.Errorf("%w: its files are longer than it can hold", fsimage.ErrCorrupt)

func unpackEROFS(ctx context.Context, f *os.File, room int64, dir string) error {
	n, err := fsimage.CheckEROFS(f)
	if err == nil && n > room {
		err = errRoom
	}
	if err != nil {
		return err
	}
	_, err = tool(ctx, f, nil, nil, fsckErofs, "--extract="+dir, "--no-preserve-owner", "--preserve-perms", thisFile)
	return err
}

// unpackSquashfs trusts the tool (4.5.1 and later) with names that lead out of dir:
// it refuses them. It makes devices for root only, and says so.
func unpackSquashfs(ctx context.Context, f *os.File, room int64, dir string) error {
	// The listing says how long each file is. A name or a link that has lines of its
	// own can only make that more.
	if _, err := tool(ctx, f, nil, &lengths{room: room}, unsquashfs, "-lln", thisFile); err != nil {
		return err
	}
	words, err := tool(ctx, f, nil, nil, unsquashfs, "-quiet", "-no-progress", "-no-xattrs", "-d", dir, thisFile)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 || os.Geteuid() == 0 {
		return err
	}
	for l := range strings.Lines(words) {
		l = strings.TrimSpace(l)
		if l != "" && !(strings.HasPrefix(l, "create_inode: could not create ") && strings.HasSuffix(l, "because you're not superuser!")) {
			return err
		}
	}
	return nil
}

// lengths adds up the lengths of regular files in unsquashfs's listing, line by
// line: mode, owner, length, date, time, name.
type lengths struct {
	room int64
	rest []byte
}

func (l *lengths) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			if len(l.rest) > maxPath*16 {
				return 0, errRoom
			}
			return len(p), nil
		}
		if f := bytes.Fields(line); len(f) >= 6 && f[0][0] == '-' {
			n, err := strconv.ParseInt(string(f[2]), 10, 64)
			if err != nil || n < 0 || n > l.room {
				return 0, errRoom
			}
			l.room -= n
		}
		l.rest = rest
	}
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
	if out.full {
		return out.Bytes(), nil
	}
	if _, after, _ := strings.Cut(words, "\n"); err == nil && after != "" {
		err = fmt.Errorf("%w: %s: %.200q", fsimage.ErrCorrupt, debugfs, after)
	}
	return out.Bytes(), err
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
	n := &fsimage.Node{Mode: fsimage.UnixMode(uint16(bits)), Size: length}
	n.Names = sync.OnceValues(func() (map[string]*fsimage.Node, error) { return e.names(inode) })
	n.Data = sync.OnceValues(func() ([]byte, error) {
		if n.Mode.Type() == fs.ModeSymlink {
			return e.link(inode, length)
		}
		data, err := e.ask(min(length, maxData), "cat <%d>", inode)
		if err == nil && int64(len(data)) < min(length, maxData) {
			err = fmt.Errorf("%w: a file of %d bytes ends after %d", fsimage.ErrCorrupt, length, len(data))
		}
		return data, err
	})
	return n, nil
}

// names reads "/inode/mode/uid/gid/name/size/\n" for each entry. A name can have
// anything in it but a slash, so the slashes tell where it ends.
func (e ext4) names(inode uint64) (map[string]*fsimage.Node, error) {
	text, err := e.ask(maxListing, "ls -p <%d>", inode)
	if err != nil {
		return nil, err
	}
	out := map[string]*fsimage.Node{}
	together := &batch{e: e, sizes: map[uint64]int64{}}
	for rest := string(text); rest != "" && rest != "\n"; { // a blank line is the end
		f := strings.SplitN(rest, "/", 8)
		if len(f) != 8 || f[0] != "" || !strings.HasPrefix(f[7], "\n") {
			return nil, fmt.Errorf("%w: a folder with the entry %.80q", fsimage.ErrCorrupt, rest)
		}
		rest = f[7][1:]
		number, err := strconv.ParseUint(f[1], 10, 32)
		name := f[5]
		switch {
		case err != nil || out[name] != nil:
			return nil, fmt.Errorf("%w: a folder with the entry %.80q", fsimage.ErrCorrupt, name)
		case name == "." || name == ".." || number == 0:
			continue
		case !fsimage.ValidName(name):
			return nil, fmt.Errorf("%w: a folder with the name %.80q", fsimage.ErrCorrupt, name)
		}
		if out[name], err = e.node(number, f[2], f[6]); err != nil {
			return nil, err
		}
		if n := out[name]; n.Mode.IsRegular() && n.Size > 0 && n.Size <= smallFile && (together.total < maxData || together.sizes[number] > 0) {
			together.total += n.Size
			together.sizes[number] = n.Size
			n.Data = func() ([]byte, error) { together.once.Do(together.read); return together.data[number], together.err }
		}
	}
	return out, nil
}

// batch is the small files of a folder. Who asks for one mostly asks for others,
// and starting debugfs takes longer than reading a file.
type batch struct {
	e     ext4
	sizes map[uint64]int64 // by inode
	total int64
	once  sync.Once
	data  map[uint64][]byte
	err   error
}

func (b *batch) read() {
	var script strings.Builder
	inodes := slices.Sorted(maps.Keys(b.sizes))
	for _, inode := range inodes {
		fmt.Fprintf(&script, "cat <%d>\n", inode)
	}
	out := &limited{left: maxListing}
	words, err := tool(b.e.ctx, b.e.f, strings.NewReader(script.String()), out, debugfs, "-f", "-", thisFile)
	b.data = map[uint64][]byte{}
	rest := out.Bytes()
	for _, inode := range inodes { // it says each command before it follows it
		var ok bool
		if rest, ok = bytes.CutPrefix(rest, fmt.Appendf(nil, "debugfs: cat <%d>\n", inode)); !ok || int64(len(rest)) < b.sizes[inode] {
			break
		}
		b.data[inode], rest = rest[:b.sizes[inode]], rest[b.sizes[inode]:]
	}
	if _, after, _ := strings.Cut(words, "\n"); err == nil && (after != "" || len(b.data) != len(inodes) || len(rest) > 0) {
		err = fmt.Errorf("%w: %s: %.200q", fsimage.ErrCorrupt, debugfs, after)
	}
	b.err = err
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
	text, err = e.ask(length, "cat <%d>", inode)
	if err == nil && int64(len(text)) < length {
		err = fmt.Errorf("%w: a symbolic link of %d bytes ends after %d", fsimage.ErrCorrupt, length, len(text))
	}
	return text, err
}

// limited keeps so many bytes, and then ends who writes.
type limited struct {
	bytes.Buffer
	left int64
	full bool
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(p)) >= l.left {
		l.full = true
		l.Buffer.Write(p[:l.left])
		l.left = 0
		return 0, io.ErrShortWrite
	}
	l.left -= int64(len(p))
	return l.Buffer.Write(p)
}
