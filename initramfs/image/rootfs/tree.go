package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
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
	maxID      = 1<<32 - 2 // of an owner: the last one means none
	maxTarget  = 4095      // of a symbolic link's target: PATH_MAX has a NUL
	maxMajor   = 1<<12 - 1 // of a device (include/linux/kdev_t.h)
	maxMinor   = 1<<20 - 1
	maxDepth   = 256       // folders in one another
	maxFollow  = 40        // symbolic links on the way to a name, as the kernel's
	smallFile  = 256 << 10 // bytes of a file that is kept for who looks at the tree
)

// folderSize is about what a folder takes in memory, in bytes.
const folderSize = 400

// keptFolders have the small files that are kept.
var keptFolders = []string{"etc/", "usr/lib/systemd/", "lib/systemd/", "usr/local/lib/systemd/", "usr/lib/udev/rules.d/", "lib/udev/rules.d/", "usr/local/lib/udev/rules.d/"}

// place is where a file's bytes are: the entry of a layer, both counted from 0.
type place struct{ layer, entry int }

// inode is one file.
type inode struct {
	place
	header *tar.Header // as it is written, but for the name
	data   []byte      // of a regular file, where it is kept
	names  []string    // filled in when it is written
}

// node is a name in the tree. A folder has children, which may be none.
type node struct {
	inode    *inode // nil for a folder that no entry describes
	layer    int    // which has the name
	children map[string]*node
}

func newFolder(layer int) *node { return &node{layer: layer, children: map[string]*node{}} }

// tree is what layers, applied one after another, result in. Whoever made the tar
// decides its names.
type tree struct {
	root    *node
	entries int
	kept    int // bytes of memory, about
	notes   notes
}

func newTree() *tree { return &tree{root: newFolder(0), notes: notes{}} }

func (t *tree) keep(n int) error {
	if t.kept += n; t.kept > maxKept {
		return fmt.Errorf("%w: its names take more than %d bytes of memory", errTar, maxKept)
	}
	return nil
}

// split returns the parts of a tar's name, none for the root itself. A name
// that leads out of the tree is refused; a slash at its start is none.
func split(name string) ([]string, error) {
	if len(name) > maxPath || strings.Contains(name, "\x00") {
		return nil, fmt.Errorf("%w: a name of %d bytes", errTar, len(name))
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%w: %.80q leads out of the root", errTar, name)
		default:
			if len(part) > maxName {
				return nil, fmt.Errorf("%w: %.80q is a name of %d bytes; Linux has up to %d", errTar, part, len(part), maxName)
			}
			parts = append(parts, part)
		}
	}
	if len(parts) > maxDepth {
		return nil, fmt.Errorf("%w: %.80q is more than %d folders deep", errTar, name, maxDepth)
	}
	return parts, nil
}

// apply puts an entry of a layer upon the tree: a whiteout takes away what the
// layers below have (OCI image-spec v1.1.1, layer.md, "Applying Changesets"). In a
// layer that is whole, no name is a whiteout.
func (t *tree) apply(at place, h *tar.Header, r io.Reader, whole bool) error {
	if t.entries++; t.entries > maxEntries {
		return fmt.Errorf("%w: more than %d entries", errTar, maxEntries)
	}
	parts, err := split(h.Name)
	if err != nil {
		return err
	}
	if len(parts) > 0 && !whole && strings.HasPrefix(parts[len(parts)-1], whiteout) {
		t.remove(at.layer, parts)
		return nil
	}
	in := &inode{place: at}
	if in.header, err = t.written(h); err != nil {
		return err
	}
	if err := t.keep(keptOf(in.header, len(parts))); err != nil {
		return err
	}
	name := strings.Join(parts, "/")
	if isRegular(h) && h.Size <= smallFile && slices.ContainsFunc(keptFolders, func(f string) bool { return strings.HasPrefix(name, f) }) {
		if in.data, err = io.ReadAll(r); err != nil {
			return err
		}
		if err := t.keep(len(in.data)); err != nil {
			return err
		}
	}
	return t.add(in, parts)
}

// keptOf returns about how many bytes of memory an entry takes.
func keptOf(h *tar.Header, parts int) int {
	n := 600 + 2*len(h.Name) + len(h.Linkname) + 16*parts
	for key, value := range h.PAXRecords {
		n += len(key) + len(value)
	}
	return n
}

func isRegular(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse
}

// The names of whiteouts (layer.md, "Whiteouts").
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// remove does what a whiteout says; there may be nothing to remove.
func (t *tree) remove(layer int, parts []string) {
	folder, err := t.folder(layer, parts[:len(parts)-1], false)
	if err != nil || folder == nil {
		return
	}
	name := parts[len(parts)-1]
	for child, n := range folder.children {
		if (name == opaqueWhiteout || child == strings.TrimPrefix(name, whiteout)) && n.prune(layer) {
			delete(folder.children, child)
		}
	}
}

// prune takes away what the layers below one have, and reports whether that is
// all.
func (n *node) prune(layer int) bool {
	for name, child := range n.children {
		if child.prune(layer) {
			delete(n.children, name)
		}
	}
	if n.layer >= layer {
		return false
	}
	n.inode = nil
	return len(n.children) == 0
}

// add adds a file. A folder stays the folder that it was, with a new owner and
// mode; all else takes the place of what has its name.
func (t *tree) add(in *inode, parts []string) error {
	isFolder := in.header.Typeflag == tar.TypeDir
	if len(parts) == 0 {
		if !isFolder {
			return fmt.Errorf("%w: its root is not a folder", errTar)
		}
		t.root.inode = in
		return nil
	}
	folder, err := t.folder(in.layer, parts[:len(parts)-1], true)
	if err != nil {
		return fmt.Errorf("%w (for %.80q)", err, in.header.Name)
	}
	name := parts[len(parts)-1]
	n := &node{inode: in, layer: in.layer}
	if isFolder {
		n.children = map[string]*node{}
		if old := folder.children[name]; old != nil && old.children != nil {
			n.children = old.children
		}
	}
	if in.header.Typeflag == tar.TypeLink {
		if n.inode, err = t.linked(in.layer, in.header.Linkname); err != nil {
			return fmt.Errorf("%w (for %.80q)", err, in.header.Name)
		}
	}
	folder.children[name] = n
	return nil
}

func (t *tree) linked(layer int, name string) (*inode, error) {
	parts, err := split(name)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("%w: a hard link to the root", errTar)
	}
	folder, err := t.folder(layer, parts[:len(parts)-1], false)
	if err != nil {
		return nil, err
	}
	if folder != nil {
		if n := folder.children[parts[len(parts)-1]]; n != nil && n.children == nil {
			return n.inode, nil
		}
	}
	return nil, fmt.Errorf("%w: a hard link to %.80q, which is not a file before it", errTar, name)
}

// folder walks to a folder. A symbolic link on the way is followed inside the
// tree, as a container's runtime does it: a layer may put lib/x where lib is
// a link to usr/lib. What is missing is made, or nil is returned.
func (t *tree) folder(layer int, parts []string, create bool) (*node, error) {
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
				return nil, fmt.Errorf("%w: more than %d folders deep", errTar, maxDepth)
			}
			if len(part) > maxName { // of a link
				return nil, fmt.Errorf("%w: %.80q is a name of %d bytes; Linux has up to %d", errTar, part, len(part), maxName)
			}
			if err := t.keep(folderSize + len(part)); err != nil {
				return nil, err
			}
			next = newFolder(layer)
			here.children[part] = next
		case next.children == nil && next.inode.header.Typeflag == tar.TypeSymlink:
			if follow--; follow < 0 || len(parts) > maxPath {
				return nil, fmt.Errorf("%w: symbolic links lead in a circle", errTar)
			}
			if strings.HasPrefix(next.inode.header.Linkname, "/") {
				at = at[:1]
			}
			parts = append(strings.Split(next.inode.header.Linkname, "/"), parts...)
			continue
		case next.children == nil:
			return nil, fmt.Errorf("%w: %.80q is not a folder", errTar, part)
		}
		at = append(at, next)
	}
	return at[len(at)-1], nil
}

// walk calls f for all names below a folder, in their order.
func walk(n *node, prefix string, f func(name string, n *node) error) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[name]
		path := prefix + name
		if len(path) > maxPath {
			return fmt.Errorf("%w: a name of %d bytes", errTar, len(path))
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
