package fsimage

import (
	"io"
	"io/fs"
	"time"
)

// Numbers of ext4 (fs/ext4/ext4.h and ext4_extents.h of Linux 6.12).
const (
	ext4Root        = 2          // EXT4_ROOT_INO
	ext4ExtentsFlag = 0x80000    // EXT4_EXTENTS_FL: a tree of extents
	ext4InlineFlag  = 0x10000000 // EXT4_INLINE_DATA_FL
	ext4Encrypted   = 0x800      // EXT4_ENCRYPT_FL
	extentMagic     = 0xf30a
	extentDepth     = 5 // EXT4_MAX_EXTENT_DEPTH
	extentUnwritten = 1 << 15
)

// ext4 is an ext2, ext3 or ext4 whose journal is empty.
type ext4 struct {
	r    io.ReaderAt
	meta *pages
	sb   ext4SB
}

func newExt4(r io.ReaderAt, head []byte) (volume, error) {
	sb, err := parseExt4(head)
	return &ext4{r, newPages(r), sb}, err
}

// ext4Data is what an inode has of its blocks: a tree's root, block numbers,
// or the text of a short symbolic link.
type ext4Data struct {
	block [60]byte
	tree  bool
	text  bool
}

func (e *ext4) root() (node, error) { return e.node(ext4Root) }

func (e *ext4) node(ref uint64) (node, error) {
	if ref == 0 || ref > uint64(e.sb.inodes) {
		return node{}, corrupt("the inode %d of %d", ref, e.sb.inodes)
	}
	group, index := int64(ref-1)/int64(e.sb.inodesPerGroup), int64(ref-1)%int64(e.sb.inodesPerGroup)
	g, err := e.meta.at((e.sb.firstData+1)*e.sb.blockSize+group*e.sb.descriptorSize, int(e.sb.descriptorSize))
	if err != nil {
		return node{}, err
	}
	table := int64(le.Uint32(g[8:]))
	if e.sb.descriptorSize >= 64 {
		table |= int64(le.Uint32(g[0x28:])) << 32
	}
	if table <= 0 || table >= e.sb.length/e.sb.blockSize {
		return node{}, corrupt("the inodes of group %d in block %d", group, table)
	}
	b, err := e.meta.at(table*e.sb.blockSize+index*e.sb.inodeSize, 128)
	if err != nil {
		return node{}, err
	}
	return ext4Node(ref, b)
}

// ext4Node reads the first 128 bytes of an inode.
func ext4Node(ref uint64, b []byte) (node, error) {
	flags := le.Uint32(b[32:])
	n := node{
		ref:  ref,
		mode: unixMode(le.Uint16(b)),
		size: int64(le.Uint32(b[4:])),
		time: time.Unix(int64(int32(le.Uint32(b[16:]))), 0),
	}
	if n.mode.IsRegular() {
		n.size |= int64(le.Uint32(b[108:])) << 32
	}
	switch {
	case flags&ext4InlineFlag != 0:
		return n, unsupported("ext4's inline_data")
	case flags&ext4Encrypted != 0:
		return n, unsupported("ext4's encrypt")
	case n.size < 0:
		return n, corrupt("a file of %d bytes", uint64(n.size))
	}
	d := ext4Data{tree: flags&ext4ExtentsFlag != 0}
	copy(d.block[:], b[40:])
	d.text = n.mode.Type() == fs.ModeSymlink && !d.tree && n.size < int64(len(d.block))
	n.data = d
	return n, nil
}

// list reads a folder entry by entry; what is there for the search by hash
// looks like entries that are free.
func (e *ext4) list(n node) ([]entry, error) {
	if n.size > maxFolder {
		return nil, corrupt("a folder of %d bytes", n.size)
	}
	var all []entry
	block := make([]byte, e.sb.blockSize)
	for off := int64(0); off+e.sb.blockSize <= n.size; off += e.sb.blockSize {
		if err := e.read(n, block, off); err != nil {
			return nil, err
		}
		for b := block; len(b) > 0; {
			size := 0
			if len(b) >= 8 {
				size = int(le.Uint16(b[4:]))
			}
			if size < 8 || size%4 != 0 || size > len(b) {
				return nil, corrupt("a folder's entry of %d bytes", size)
			}
			ref, length := le.Uint32(b), int(b[6])
			if length > size-8 {
				return nil, corrupt("a name of %d bytes in %d", length, size)
			}
			name := string(b[8 : 8+length])
			b = b[size:]
			switch {
			case ref == 0 || name == "." || name == "..":
			case !validName(name):
				return nil, corrupt("a folder has the name %.64q", name)
			default:
				all = append(all, entry{name, uint64(ref)})
			}
		}
	}
	return all, nil
}

func (e *ext4) read(n node, p []byte, off int64) error {
	d, ok := n.data.(ext4Data)
	if !ok {
		return corrupt("it has no content")
	}
	if d.text {
		copy(p, d.block[off:])
		return nil
	}
	for len(p) > 0 {
		block, count, err := e.find(d, off/e.sb.blockSize)
		if err != nil {
			return err
		}
		in := off % e.sb.blockSize
		part := p[:min(int64(len(p)), count*e.sb.blockSize-in)]
		if block == 0 {
			clear(part)
		} else if err := readInto(e.r, part, block*e.sb.blockSize+in); err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// find returns where a file's block lies, and how many follow it there. Block
// 0 is a hole.
func (e *ext4) find(d ext4Data, logical int64) (block, count int64, err error) {
	if d.tree {
		return e.extent(d.block[:], logical)
	}
	return e.indirect(d.block[:], logical)
}

// extent walks down a tree.
func (e *ext4) extent(b []byte, logical int64) (block, count int64, err error) {
	for depth := -1; ; {
		entries, level := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
		if le.Uint16(b) != extentMagic || 12+12*entries > len(b) || level > extentDepth || depth >= 0 && level != depth-1 {
			return 0, 0, corrupt("a node of extents at level %d with %d entries", level, entries)
		}
		depth = level
		at, next := -1, int64(1<<32)
		for i := 1; i <= entries; i++ {
			first := int64(le.Uint32(b[12*i:]))
			if first > logical {
				next = first
				break
			}
			at = 12 * i
		}
		if at < 0 {
			return 0, max(next-logical, 1), nil
		}
		if level == 0 {
			return e.leaf(b[at:at+12], logical, next)
		}
		child := int64(le.Uint32(b[at+4:])) | int64(le.Uint16(b[at+8:]))<<32
		if b, err = e.meta.at(child*e.sb.blockSize, int(e.sb.blockSize)); err != nil {
			return 0, 0, err
		}
	}
}

// leaf finds a block in an extent, behind which the next one begins with next.
func (e *ext4) leaf(x []byte, logical, next int64) (block, count int64, err error) {
	first, length := int64(le.Uint32(x)), int64(le.Uint16(x[4:]))
	start := int64(le.Uint32(x[8:])) | int64(le.Uint16(x[6:]))<<32
	if length > extentUnwritten {
		start, length = 0, length-extentUnwritten
	}
	in := logical - first
	if in >= length {
		return 0, max(next-logical, 1), nil
	}
	if start == 0 {
		return 0, length - in, nil
	}
	return start + in, length - in, nil
}

// indirect follows block numbers: twelve, and then one, two or three blocks
// of block numbers.
func (e *ext4) indirect(b []byte, logical int64) (block, count int64, err error) {
	const direct = 12
	if logical < direct {
		return int64(le.Uint32(b[4*logical:])), 1, nil
	}
	logical -= direct
	per := e.sb.blockSize / 4
	covers := per
	for level := int64(0); level < 3; level++ {
		if logical >= covers {
			logical -= covers
			covers *= per
			continue
		}
		at := int64(le.Uint32(b[4*(direct+level):]))
		for covers > 1 && at != 0 {
			covers /= per
			n, err := e.meta.at(at*e.sb.blockSize+4*(logical/covers), 4)
			if err != nil {
				return 0, 0, err
			}
			at = int64(le.Uint32(n))
			logical %= covers
		}
		return at, 1, nil
	}
	return 0, 0, corrupt("block %d of a file", logical)
}
