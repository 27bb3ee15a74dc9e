package rootfs

import (
	"archive/tar"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of a tree, because a tar can say more in a few compressed bytes than
// memory holds.
const (
	maxEntries = 4 << 20   // of all layers; a large distribution has a tenth
	maxKept    = 1 << 30   // bytes that the entries of all layers take in memory
	maxPath    = 4096      // bytes of a name, PATH_MAX
	maxName    = 255       // of each of its parts, NAME_MAX
	maxTarget  = 4095      // of a symbolic link's target: PATH_MAX has a NUL
	maxMajor   = 1<<12 - 1 // of a device (include/linux/kdev_t.h)
	maxMinor   = 1<<20 - 1
	maxDepth   = 256 // folders in one another
	maxFollow  = 40  // symbolic links on the way to a name, as the kernel's
)

// place is where a file's bytes are: the entry of a layer, both counted from 0.
type place struct{ layer, entry int }

// inode is one file.
type inode struct {
	place
	kind byte // tar.Type…
	mode uint16
	size int64
	link string // of a symbolic link
}

// node is a name in the tree. A folder has children, which may be none.
type node struct {
	inode    *inode // nil for a folder that no entry describes
	children map[string]*node
}

func newFolder() *node { return &node{children: map[string]*node{}} }

// tree is what layers, applied one after another, result in. Whoever made the tar
// decides its names.
type tree struct {
	root    *node
	entries int
	kept    int // bytes of memory, about
}

// folderSize is about what a folder takes in memory, in bytes.
const folderSize = 400

// keep counts bytes of memory.
func (t *tree) keep(n int) error {
	if t.kept += n; t.kept > maxKept {
		return fmt.Errorf("%w: its names take more than %d bytes of memory", ErrTar, maxKept)
	}
	return nil
}

// change is one entry of a layer.
type change struct {
	index  int
	header *tar.Header // without what add does not need
	name   []string    // the parts of its path
}

// split returns the parts of a tar's name, none for the root itself. A name
// that leads out of the tree is refused; a slash at its start is none.
func split(name string) ([]string, error) {
	if len(name) > maxPath || strings.Contains(name, "\x00") {
		return nil, fmt.Errorf("%w: a name of %d bytes", ErrTar, len(name))
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%w: %.80q leads out of the root", ErrTar, name)
		default:
			if len(part) > maxName {
				return nil, fmt.Errorf("%w: %.80q is a name of %d bytes; Linux has up to %d", ErrTar, part, len(part), maxName)
			}
			parts = append(parts, part)
		}
	}
	if len(parts) > maxDepth {
		return nil, fmt.Errorf("%w: %.80q is more than %d folders deep", ErrTar, name, maxDepth)
	}
	return parts, nil
}

// apply puts a layer upon the tree: first what it takes away from the layers
// below, then what it has (OCI image-spec v1.1.1, layer.md, "Applying
// Changesets"). In a layer that is whole, no name is a whiteout.
func (t *tree) apply(layer int, changes []change, whole bool) error {
	if t.entries += len(changes); t.entries > maxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrTar, maxEntries)
	}
	for _, c := range changes {
		if !whole && isWhiteout(c) {
			t.remove(c)
		}
	}
	for _, c := range changes {
		if !whole && isWhiteout(c) {
			continue
		}
		if err := t.add(layer, c); err != nil {
			return err
		}
	}
	return nil
}

// The names of whiteouts (layer.md, "Whiteouts").
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

func isWhiteout(c change) bool {
	return len(c.name) > 0 && strings.HasPrefix(c.name[len(c.name)-1], whiteout)
}

// remove does what a whiteout says; there may be nothing to remove.
func (t *tree) remove(c change) {
	folder, err := t.folder(c.name[:len(c.name)-1], false)
	if err != nil || folder == nil {
		return
	}
	name := c.name[len(c.name)-1]
	if name == opaqueWhiteout {
		clear(folder.children)
		return
	}
	delete(folder.children, strings.TrimPrefix(name, whiteout))
}

// add adds an entry. A folder stays the folder that it was, with a new owner
// and mode; all else takes the place of what has its name.
func (t *tree) add(layer int, c change) error {
	in := &inode{place: place{layer, c.index}, kind: c.header.Typeflag, mode: uint16(c.header.Mode & 0o7777), size: c.header.Size, link: c.header.Linkname}
	if len(c.name) == 0 {
		if in.kind != tar.TypeDir {
			return fmt.Errorf("%w: its root is no folder", ErrTar)
		}
		t.root.inode = in
		return nil
	}
	folder, err := t.folder(c.name[:len(c.name)-1], true)
	if err != nil {
		return fmt.Errorf("%w (for %.80q)", err, c.header.Name)
	}
	name := c.name[len(c.name)-1]
	old := folder.children[name]
	switch {
	case in.kind == tar.TypeDir && old != nil && old.children != nil:
		old.inode = in
	case in.kind == tar.TypeDir:
		n := newFolder()
		n.inode = in
		folder.children[name] = n
	case in.kind == tar.TypeLink:
		target, err := t.linked(c.header.Linkname)
		if err != nil {
			return fmt.Errorf("%w (for %.80q)", err, c.header.Name)
		}
		folder.children[name] = &node{inode: target}
	default:
		folder.children[name] = &node{inode: in}
	}
	return nil
}

// linked returns the file that a hard link is another name of.
func (t *tree) linked(name string) (*inode, error) {
	parts, err := split(name)
	if err != nil {
		return nil, err
	}
	if len(parts) > 0 {
		folder, err := t.folder(parts[:len(parts)-1], false)
		if err != nil {
			return nil, err
		}
		if folder != nil {
			if n := folder.children[parts[len(parts)-1]]; n != nil && n.children == nil {
				return n.inode, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: a hard link to %.80q, which is no file before it", ErrTar, name)
}

// folder walks to a folder. A symbolic link on the way is followed inside the
// tree, as a container's runtime does it: a layer may put lib/x where lib is
// a link to usr/lib. What is missing is made, or nil is returned.
func (t *tree) folder(parts []string, create bool) (*node, error) {
	at := []*node{t.root} // the way, from the root on
	follow := maxFollow
	for len(parts) > 0 {
		part := parts[0]
		parts = parts[1:]
		here := at[len(at)-1]
		switch part {
		case "", ".":
			continue
		case "..": // of a link: of the root, the root
			at = at[:max(len(at)-1, 1)]
			continue
		}
		next := here.children[part]
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			if len(at) > maxDepth {
				return nil, fmt.Errorf("%w: more than %d folders deep", ErrTar, maxDepth)
			}
			if len(part) > maxName { // of a link
				return nil, fmt.Errorf("%w: %.80q is a name of %d bytes; Linux has up to %d", ErrTar, part, len(part), maxName)
			}
			if err := t.keep(folderSize + len(part)); err != nil {
				return nil, err
			}
			next = newFolder()
			here.children[part] = next
		case next.children == nil && next.inode.kind == tar.TypeSymlink:
			if follow--; follow < 0 || len(parts) > maxPath {
				return nil, fmt.Errorf("%w: symbolic links lead in a circle", ErrTar)
			}
			if strings.HasPrefix(next.inode.link, "/") {
				at = at[:1]
			}
			parts = append(strings.Split(next.inode.link, "/"), parts...)
			continue
		case next.children == nil:
			return nil, fmt.Errorf("%w: %.80q is no folder", ErrTar, part)
		}
		at = append(at, next)
	}
	return at[len(at)-1], nil
}

// folders calls f for each folder below the root, those that hold others
// first, in the order of their names.
func (t *tree) folders(f func(name string, in *inode) error) error {
	return walk(t.root, "", func(name string, n *node) error {
		if n.children == nil {
			return nil
		}
		return f(name, n.inode)
	})
}

// files returns for each layer what its entries, by their number, are called.
func (t *tree) files(layers int) ([]map[int][]string, error) {
	all := make([]map[int][]string, layers)
	for i := range all {
		all[i] = map[int][]string{}
	}
	err := walk(t.root, "", func(name string, n *node) error {
		if n.children != nil {
			return nil
		}
		names := all[n.inode.layer]
		names[n.inode.entry] = append(names[n.inode.entry], name)
		return nil
	})
	return all, err
}

// walk calls f for all names below a folder, in their order.
func walk(n *node, prefix string, f func(name string, n *node) error) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[name]
		path := prefix + name
		if len(path) > maxPath {
			return fmt.Errorf("%w: a name of %d bytes", ErrTar, len(path))
		}
		if err := f(path, child); err != nil {
			return err
		}
		if child.children != nil {
			if err := walk(child, path+"/", f); err != nil {
				return err
			}
		}
	}
	return nil
}
