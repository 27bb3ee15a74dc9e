// Package fsimage reads the file system in an image: which one it is, its
// folders, its files. It needs neither a mount nor a privilege.
//
// It knows what the guest mounts: squashfs 4.0 (gzip, lz4, xz, zstd), erofs
// (not compressed) and ext4 (ext2 and ext3 too), as Linux's own sources lay
// them out; the offsets are those of the headers that are named. Who made the
// image decides every byte of it: whatever it says, little memory is used, and
// each call ends.
//
// It does not check what the kernel would check on top, reads neither owners
// nor extended attributes, and two names of one file are two files here.
package fsimage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"cocoroot/unlock/policy"
)

// Bounds of what is held in memory.
const (
	maxFolder = 16 << 20 // bytes that a folder has on disk
	maxLink   = 4096     // bytes of a symbolic link's text, PATH_MAX
	maxPath   = 4096     // bytes, as well
	maxName   = 255      // bytes, NAME_MAX
	maxLinks  = 40       // links on one way, as in the kernel's fs/namei.c
	maxDepth  = 4096     // parts of a path, links resolved
	maxNames  = 1 << 17  // of folders that are remembered
)

// FS is an image's tree: an fs.FS with ReadDir, ReadLink and Lstat. Like the
// disk, it does not follow symbolic links: Open and Lstat of a link are of the
// link itself, and no path leads through one. Resolve follows them.
//
// A corrupt image can have a folder that contains itself, or a file of 2^62
// bytes: who walks, or reads to the end, has to stop somewhere.
type FS struct {
	mu sync.Mutex // for the rest, and the volumes keep what they read last
	v  volume
	// names are those of folders that were walked through, by the folder.
	names map[uint64]map[string]uint64
	count int // of all names there
}

// node is an inode: one file, folder or whatever.
type node struct {
	ref  uint64 // where the volume finds it again
	mode fs.FileMode
	size int64 // bytes
	time time.Time
	data any // what the volume needs to read it
}

// entry is a name in a folder.
type entry struct {
	name string
	ref  uint64
}

// volume is one kind of file system.
type volume interface {
	root() (node, error)
	node(ref uint64) (node, error)
	// list returns what is in a folder, without "." and "..".
	list(n node) ([]entry, error)
	// read returns the bytes of a regular file or a symbolic link from off
	// on, which lie before its end. It fills p, or returns an error.
	read(n node, p []byte, off int64) error
}

// Open reads the file system of an image with size bytes. Its errors are
// those of Detect, and r's.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	kind, length, err := Detect(r)
	if err != nil {
		return nil, err
	}
	if length > size {
		return nil, corrupt("it has %d bytes, and the image %d", length, size)
	}
	r = io.NewSectionReader(r, 0, length)
	head, err := readHead(r)
	if err != nil {
		return nil, err
	}
	f := &FS{}
	switch kind {
	case policy.Squashfs:
		f.v, err = newSquashfs(r, head)
	case policy.EROFS:
		f.v, err = newEROFS(r, head)
	default:
		f.v, err = newExt4(r, head)
	}
	if err != nil {
		return nil, err
	}
	if root, err := f.v.root(); err != nil {
		return nil, fmt.Errorf("cannot read the root folder: %w", err)
	} else if !root.mode.IsDir() {
		return nil, corrupt("its root is no folder")
	}
	return f, nil
}

// find walks to a path.
func (f *FS) find(name string) (node, error) {
	if len(name) > maxPath {
		return node{}, fs.ErrInvalid
	}
	n, err := f.v.root()
	if err != nil || name == "." {
		return n, err
	}
	for part := range strings.SplitSeq(name, "/") {
		if !validName(part) { // fs.ValidPath refuses names that are not UTF-8
			return node{}, fs.ErrInvalid
		}
		if !n.mode.IsDir() {
			return node{}, fs.ErrNotExist
		}
		names, err := f.namesIn(n)
		if err != nil {
			return node{}, err
		}
		ref, ok := names[part]
		if !ok {
			return node{}, fs.ErrNotExist
		}
		if n, err = f.v.node(ref); err != nil {
			return node{}, err
		}
	}
	return n, nil
}

// namesIn returns what is in a folder, by name; the first of two with one name.
func (f *FS) namesIn(n node) (map[string]uint64, error) {
	if names, ok := f.names[n.ref]; ok {
		return names, nil
	}
	all, err := f.v.list(n)
	if err != nil {
		return nil, err
	}
	names := make(map[string]uint64, len(all))
	for _, e := range all {
		if _, twice := names[e.name]; !twice {
			names[e.name] = e.ref
		}
	}
	if f.count += len(all) + 1; f.names == nil || f.count > maxNames {
		f.names, f.count = make(map[uint64]map[string]uint64), len(all)+1
	}
	f.names[n.ref] = names
	return names, nil
}

// Lstat says what a path is.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return info{path.Base(name), n}, nil
}

// ReadLink returns the text of a symbolic link.
func (f *FS) ReadLink(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := f.readLink(name)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return text, nil
}

func (f *FS) readLink(name string) (string, error) {
	n, err := f.find(name)
	if err != nil {
		return "", err
	}
	if n.mode.Type() != fs.ModeSymlink {
		return "", fs.ErrInvalid
	}
	if n.size > maxLink {
		return "", corrupt("a symbolic link of %d bytes", n.size)
	}
	b := make([]byte, n.size)
	if err := f.v.read(n, b, 0); err != nil {
		return "", err
	}
	return string(b), nil
}

// ReadDir lists a folder, in the order of the disk.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out, err := f.readDir(name)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return out, nil
}

func (f *FS) readDir(name string) ([]fs.DirEntry, error) {
	n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if !n.mode.IsDir() {
		return nil, errNotFolder
	}
	all, err := f.v.list(n)
	if err != nil {
		return nil, err
	}
	out := make([]fs.DirEntry, 0, len(all))
	for _, e := range all {
		n, err := f.v.node(e.ref)
		if err != nil {
			return nil, fmt.Errorf("%.64q: %w", e.name, err)
		}
		out = append(out, fs.FileInfoToDirEntry(info{e.name, n}))
	}
	return out, nil
}

var errNotFolder = errors.New("not a folder")

// Open opens a file, a folder, or anything else, of which only Stat works then.
func (f *FS) Open(name string) (fs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if n.mode.IsDir() {
		return &folder{fs: f, name: name, n: n}, nil
	}
	return &file{fs: f, name: name, n: n}, nil
}

// file is an open file. It has ReadAt too.
type file struct {
	fs   *FS
	name string
	n    node
	off  int64
}

func (o *file) Stat() (fs.FileInfo, error) { return info{path.Base(o.name), o.n}, nil }
func (o *file) Close() error               { return nil }

func (o *file) Read(p []byte) (int, error) {
	n, err := o.ReadAt(p, o.off)
	o.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt makes an open file an io.ReaderAt.
func (o *file) ReadAt(p []byte, off int64) (int, error) {
	o.fs.mu.Lock()
	defer o.fs.mu.Unlock()
	if !o.n.mode.IsRegular() || off < 0 {
		return 0, &fs.PathError{Op: "read", Path: o.name, Err: fs.ErrInvalid}
	}
	if off >= o.n.size {
		return 0, io.EOF
	}
	var end error
	if left := o.n.size - off; int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	if err := o.fs.v.read(o.n, p, off); err != nil {
		return 0, &fs.PathError{Op: "read", Path: o.name, Err: err}
	}
	return len(p), end
}

// folder is an open folder.
type folder struct {
	fs   *FS
	name string
	n    node
	rest []fs.DirEntry
	read bool
}

func (o *folder) Stat() (fs.FileInfo, error) { return info{path.Base(o.name), o.n}, nil }
func (o *folder) Close() error               { return nil }

func (o *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: o.name, Err: errors.New("a folder")}
}

func (o *folder) ReadDir(count int) ([]fs.DirEntry, error) {
	if !o.read {
		all, err := o.fs.ReadDir(o.name)
		if err != nil {
			return nil, err
		}
		o.rest, o.read = all, true
	}
	n := len(o.rest)
	if count > 0 {
		if n == 0 {
			return nil, io.EOF
		}
		n = min(n, count)
	}
	out := o.rest[:n:n]
	o.rest = o.rest[n:]
	return out, nil
}

// info describes a node under a name.
type info struct {
	name string
	n    node
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.n.size }
func (i info) Mode() fs.FileMode  { return i.n.mode }
func (i info) ModTime() time.Time { return i.n.time }
func (i info) IsDir() bool        { return i.n.mode.IsDir() }
func (i info) Sys() any           { return nil }

// ErrLoop is for symbolic links that lead nowhere in as many steps as Linux
// takes.
var ErrLoop = errors.New("too many symbolic links")

// Resolve follows the symbolic links on the way to name and at its end, within
// the tree: an absolute link begins at the root, and ".." stops there. It
// returns a path without links, of something that is there.
func Resolve(fsys fs.ReadLinkFS, name string) (string, error) {
	fail := func(err error) (string, error) {
		return "", &fs.PathError{Op: "resolve", Path: name, Err: err}
	}
	done, todo := "", strings.Split(name, "/")
	for links, steps := 0, 0; len(todo) > 0; steps++ {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = strings.TrimPrefix(path.Dir("/"+done), "/")
			continue
		}
		at := path.Join(done, part)
		fi, err := fsys.Lstat(at)
		if err != nil {
			return fail(err)
		}
		if fi.Mode().Type() != fs.ModeSymlink {
			done = at
			continue
		}
		text, err := fsys.ReadLink(at)
		if err != nil {
			return fail(err)
		}
		if links++; links > maxLinks || steps > maxDepth {
			return fail(ErrLoop)
		}
		if strings.HasPrefix(text, "/") {
			done = ""
		}
		todo = append(strings.Split(text, "/"), todo...)
	}
	if done == "" {
		done = "."
	}
	return done, nil
}

// unixMode turns a mode as stat(2) has it into Go's.
func unixMode(m uint16) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, flag := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	switch m & 0o170000 {
	case 0o100000:
		return mode
	case 0o040000:
		return mode | fs.ModeDir
	case 0o120000:
		return mode | fs.ModeSymlink
	case 0o060000:
		return mode | fs.ModeDevice
	case 0o020000:
		return mode | fs.ModeDevice | fs.ModeCharDevice
	case 0o010000:
		return mode | fs.ModeNamedPipe
	case 0o140000:
		return mode | fs.ModeSocket
	}
	return mode | fs.ModeIrregular
}

// validName reports whether a name can stand in a path.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}
