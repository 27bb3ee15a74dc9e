// Package fsimage says which file system an image holds, and shows its files.
//
// It knows what the guest mounts: squashfs 4.0, erofs and ext4 (ext2 and ext3 too),
// by their superblocks, as Linux's own sources lay them out. Their files the stock
// tools read; see package rootfs. A Tree holds what was read.
//
// Who made the image decides every byte of it: whatever it says, little memory is
// used, and each call ends. What the kernel would check on top is not checked.
package fsimage

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Bounds, as Linux has them.
const (
	maxName  = 255  // bytes, NAME_MAX
	maxLinks = 40   // links on one way, fs/namei.c
	maxDepth = 4096 // parts of a path, links resolved
)

// Node is a file, a folder or whatever.
type Node struct {
	Mode  fs.FileMode
	Size  int64                            // bytes
	Names func() (map[string]*Node, error) // of a folder
	Data  func() ([]byte, error)           // of a file, its beginning; of a symbolic link, its text
}

// Tree is an fs.FS of nodes, with ReadDir, ReadLink and Lstat. Like the disk,
// it does not follow symbolic links: Open and Lstat of a link are of the link
// itself, and no path leads through one. Resolve follows them.
type Tree struct{ Root *Node }

func (t Tree) find(op, name string) (*Node, error) {
	n := t.Root
	for part := range strings.SplitSeq(name, "/") {
		if name == "." {
			break
		}
		if !n.Mode.IsDir() {
			return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		names, err := n.Names()
		if err == nil && names[part] == nil {
			err = fs.ErrNotExist
		}
		if err != nil {
			return nil, &fs.PathError{Op: op, Path: name, Err: err}
		}
		n = names[part]
	}
	return n, nil
}

// Lstat says what a path is.
func (t Tree) Lstat(name string) (fs.FileInfo, error) {
	n, err := t.find("lstat", name)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), n}, nil
}

// Stat is Lstat.
func (t Tree) Stat(name string) (fs.FileInfo, error) { return t.Lstat(name) }

// ReadLink returns the text of a symbolic link.
func (t Tree) ReadLink(name string) (string, error) {
	n, err := t.find("readlink", name)
	if err == nil && n.Mode.Type() != fs.ModeSymlink {
		err = &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return "", err
	}
	text, err := n.Data()
	return string(text), err
}

// ReadDir lists a folder.
func (t Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.find("readdir", name)
	if err == nil && !n.Mode.IsDir() {
		err = &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return nil, err
	}
	names, err := n.Names()
	var out []fs.DirEntry
	for name, n := range names {
		out = append(out, fs.FileInfoToDirEntry(info{name, n}))
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, err
}

// Open opens a regular file, which has ReadAt too.
func (t Tree) Open(name string) (fs.File, error) {
	n, err := t.find("open", name)
	if err == nil && !n.Mode.IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return nil, err
	}
	data, err := n.Data()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return file{bytes.NewReader(data), info{path.Base(name), n}}, nil
}

type file struct {
	*bytes.Reader
	info info
}

func (f file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f file) Close() error               { return nil }

var _ io.ReaderAt = file{}

// info describes a node under a name.
type info struct {
	name string
	n    *Node
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.n.Size }
func (i info) Mode() fs.FileMode  { return i.n.Mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.n.Mode.IsDir() }
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

// UnixMode turns a mode as stat(2) has it into Go's.
func UnixMode(m uint16) fs.FileMode {
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

// ValidName reports whether a name can stand in a path.
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}
