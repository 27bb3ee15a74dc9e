package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"cocoroot/initramfs/image/fsimage"
)

// layersTree shows the files of layers. Their bytes are kept while they are
// copied, where it is known that somebody will ask for them; what else is asked for
// is read from its layer once more.
type layersTree struct {
	ctx    context.Context
	layers []layer
	tree   *tree
	kept   map[*inode][]byte
}

// Of small files in these folders the bytes are kept, up to a limit in all.
const (
	smallFile = 64 << 10
	maxKeep   = 64 << 20
)

var keptFolders = []string{"etc/", "usr/lib/systemd/", "lib/systemd/", "usr/local/lib/systemd/", "usr/lib/udev/rules.d/", "lib/udev/rules.d/", "usr/local/lib/udev/rules.d/"}

// wanted returns the files that will be asked for: program, and small ones.
func (l *layersTree) wanted(program string) map[place]*inode {
	out := map[place]*inode{}
	total := int64(0)
	add := func(n *node, most int64) {
		if n != nil && n.inode != nil && isRegular(n.inode) && n.inode.size <= most && total < maxKeep {
			total += n.inode.size
			out[n.inode.place] = n.inode
		}
	}
	walk(l.tree.root, "", func(name string, n *node) error {
		for _, f := range keptFolders {
			if strings.HasPrefix(name, f) {
				add(n, smallFile)
			}
		}
		return nil
	})
	if p, err := fsimage.Resolve(fsimage.Tree{Root: l.node(l.tree.root)}, program); err == nil {
		n := l.tree.root
		for part := range strings.SplitSeq(p, "/") {
			if n = n.children[part]; n == nil {
				break
			}
		}
		add(n, maxData)
	}
	return out
}

func isRegular(in *inode) bool { return in.kind == tar.TypeReg || in.kind == tar.TypeGNUSparse }

// types are the bits of a mode that stat(2) has for a type.
var types = map[byte]uint16{
	tar.TypeReg: 0o100000, tar.TypeGNUSparse: 0o100000, tar.TypeSymlink: 0o120000, tar.TypeChar: 0o020000, tar.TypeBlock: 0o060000, tar.TypeFifo: 0o010000,
}

// node returns a name of the tree as it will be in the image.
func (l *layersTree) node(n *node) *fsimage.Node {
	if n.children != nil {
		mode := uint16(0o755)
		if n.inode != nil {
			mode = n.inode.mode
		}
		return &fsimage.Node{Mode: fsimage.UnixMode(0o040000 | mode), Names: sync.OnceValues(func() (map[string]*fsimage.Node, error) {
			names := make(map[string]*fsimage.Node, len(n.children))
			for name, child := range n.children {
				names[name] = l.node(child)
			}
			return names, nil
		})}
	}
	in := n.inode
	out := &fsimage.Node{Mode: fsimage.UnixMode(types[in.kind] | in.mode), Size: in.size}
	out.Data = func() ([]byte, error) { return l.read(in) }
	if in.kind == tar.TypeSymlink {
		out.Size, out.Data = int64(len(in.link)), func() ([]byte, error) { return []byte(in.link), nil }
	}
	return out
}

// read returns the beginning of a file.
func (l *layersTree) read(in *inode) ([]byte, error) {
	if data, ok := l.kept[in]; ok || in.size == 0 {
		return data, nil
	}
	layer := l.layers[in.layer]
	err := eachEntry(l.ctx, layer, func(i int, _ *tar.Header, r io.Reader) error {
		if i != in.entry {
			return nil
		}
		data, err := io.ReadAll(io.LimitReader(r, maxData))
		if err == nil {
			l.kept[in], err = data, errSeen
		}
		return err
	})
	if _, ok := l.kept[in]; ok && errors.Is(err, errSeen) {
		return l.kept[in], nil
	}
	return nil, fmt.Errorf("cannot read %s: %w", layer.name, errors.Join(ErrChanged, err))
}

// anyway takes all that its writer has no room for.
type anyway struct{ w io.Writer }

func (a anyway) Write(p []byte) (int, error) {
	a.w.Write(p)
	return len(p), nil
}
