// Package fsimage says which file system an image holds, and shows files.
//
// It knows what the guest mounts: squashfs 4.0, erofs and ext4 (ext2 and ext3 too),
// by their superblocks, as Linux's own sources lay them out. The files of an erofs
// github.com/erofs/go-erofs reads, those of the others the stock tools; see package
// rootfs. A Node shows what was read.
//
// Who made the image decides every byte of it: whatever it says, little memory is
// used, and each call ends. What the kernel would check on top is not checked.
package fsimage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
)

// Bounds of what is shown.
const (
	MaxData    = 4 << 20 // bytes of a file, from its beginning
	maxEntries = 1 << 16 // of a folder
	maxLinks   = 40      // on one way, as in Linux's fs/namei.c
	maxParts   = 4096    // of a path, links resolved
)

// Node is a file, a folder, a link or a device.
type Node struct {
	Mode  fs.FileMode
	Size  int64                            // bytes
	Names func() (map[string]*Node, error) // of a folder
	Data  func() ([]byte, error)           // of a file, its first MaxData bytes; of a symbolic link, its text
}

// Of shows the files of a file system, which have to stay as they are.
func Of(fsys fs.ReadLinkFS) (*Node, error) { return nodeOf(fsys, ".") }

func nodeOf(fsys fs.ReadLinkFS, name string) (*Node, error) {
	fi, err := fsys.Lstat(name)
	if err != nil {
		return nil, err
	}
	n := &Node{Mode: fi.Mode(), Size: fi.Size()}
	n.Names = sync.OnceValues(func() (map[string]*Node, error) {
		f, err := fsys.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		folder, ok := f.(fs.ReadDirFile)
		if !ok {
			return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
		}
		all, err := folder.ReadDir(maxEntries + 1)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if len(all) > maxEntries {
			return nil, fmt.Errorf("/%s has more than %d entries", name, maxEntries)
		}
		names := make(map[string]*Node, len(all))
		for _, d := range all {
			if names[d.Name()], err = nodeOf(fsys, path.Join(name, d.Name())); err != nil {
				return nil, fmt.Errorf("/%s has a name that leads to nothing: %v", name, err) // which is not fs.ErrNotExist
			}
		}
		return names, nil
	})
	n.Data = sync.OnceValues(func() ([]byte, error) {
		if n.Mode.Type() == fs.ModeSymlink {
			text, err := fsys.ReadLink(name)
			return []byte(text), err
		}
		f, err := fsys.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, MaxData))
	})
	return n, nil
}

// ErrLoop is for symbolic links that lead nowhere in as many steps as Linux
// takes.
var ErrLoop = errors.New("too many symbolic links")

// Find returns what has a name below the root n, and its path without links. It
// follows the symbolic links on the way, and with last the one at its end: an
// absolute link begins at the root, and ".." stops there. The errors are
// fs.ErrNotExist, ErrLoop and those of the nodes.
func (n *Node) Find(name string, last bool) (*Node, string, error) {
	fail := func(err error) (*Node, string, error) {
		return nil, "", &fs.PathError{Op: "find", Path: name, Err: err}
	}
	way, done, todo := []*Node{n}, "", strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			way, done = way[:max(len(way)-1, 1)], path.Dir("/" + done)[1:]
			continue
		}
		here := way[len(way)-1]
		if !here.Mode.IsDir() {
			return fail(fs.ErrNotExist)
		}
		names, err := here.Names()
		if err != nil {
			return fail(err)
		}
		next := names[part]
		if next == nil {
			return fail(fs.ErrNotExist)
		}
		if next.Mode.Type() != fs.ModeSymlink || len(todo) == 0 && !last {
			way, done = append(way, next), path.Join(done, part)
			continue
		}
		text, err := next.Data()
		if err != nil {
			return fail(err)
		}
		if links++; links > maxLinks || len(todo) > maxParts {
			return fail(ErrLoop)
		}
		if strings.HasPrefix(string(text), "/") {
			way, done = way[:1], ""
		}
		todo = append(strings.Split(string(text), "/"), todo...)
	}
	return way[len(way)-1], path.Join(".", done), nil
}
