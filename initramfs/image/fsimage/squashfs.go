package fsimage

import (
	"io"
	"time"
)

// Sizes in squashfs (fs/squashfs/squashfs_fs.h of Linux 6.12), in bytes.
const (
	metaSize     = 8192    // SQUASHFS_METADATA_SIZE, decompressed
	metaPlain    = 1 << 15 // in a metadata block's length: it is not compressed
	dataPlain    = 1 << 24 // in a data block's
	noFragment   = 1<<32 - 1
	fragmentSize = 16 // struct squashfs_fragment_entry
	metaCached   = 256
)

// squashfs is a squashfs 4.0. Its metadata (inodes, folders, tables) is cut
// into blocks that are compressed one by one, each after its length.
type squashfs struct {
	r    io.ReaderAt
	sb   squashfsSB
	plan codec

	meta map[int64]metaBlock // by where they begin; metaCached at most
	at   int64               // where the block in data begins
	data []byte              // the data or fragment block that was read last
	file cursor              // where the file that was read last goes on
}

// metaBlock is a decompressed block of metadata.
type metaBlock struct {
	data []byte
	next int64 // where the following one begins
}

func newSquashfs(r io.ReaderAt, head []byte) (volume, error) {
	sb, err := parseSquashfs(head)
	if err != nil {
		return nil, err
	}
	plan, err := newCodec(sb.compression)
	return &squashfs{r: r, sb: sb, plan: plan, meta: map[int64]metaBlock{}, at: -1}, err
}

// metaAt returns the metadata block that begins at off.
func (s *squashfs) metaAt(off int64) (metaBlock, error) {
	if m, ok := s.meta[off]; ok {
		return m, nil
	}
	head, err := readAt(s.r, off, 2)
	if err != nil {
		return metaBlock{}, err
	}
	length := le.Uint16(head)
	size := int(length &^ metaPlain)
	if size == 0 || size > metaSize {
		return metaBlock{}, corrupt("a metadata block of %d bytes at %d", size, off)
	}
	b, err := readAt(s.r, off+2, size)
	if err != nil {
		return metaBlock{}, err
	}
	if length&metaPlain == 0 {
		if b, err = s.unpack(b, metaSize); err != nil {
			return metaBlock{}, corrupt("the metadata block at %d: %v", off, err)
		}
	}
	m := metaBlock{b, off + 2 + int64(size)}
	if len(s.meta) >= metaCached {
		clear(s.meta)
	}
	s.meta[off] = m
	return m, nil
}

func (s *squashfs) unpack(src []byte, most int64) ([]byte, error) {
	dst := make([]byte, most)
	n, err := s.plan(dst, src)
	if err != nil {
		return nil, err
	}
	return dst[:n:n], nil
}

// place is one in the metadata.
type place struct {
	block int64 // where the block begins in the image
	off   int   // in it, decompressed
}

// take returns n bytes and moves on.
func (s *squashfs) take(p *place, n int) ([]byte, error) {
	out := make([]byte, 0, min(n, metaSize))
	for {
		m, err := s.metaAt(p.block)
		if err != nil {
			return nil, err
		}
		if p.off > len(m.data) || p.off == len(m.data) && p.off < metaSize && len(out) < n {
			return nil, corrupt("it points behind a metadata block's end")
		}
		part := m.data[p.off:min(len(m.data), p.off+n-len(out))]
		out = append(out, part...)
		p.off += len(part)
		if len(out) == n {
			return out, nil
		}
		*p = place{m.next, 0}
	}
}

// The types of inodes; from 8 on they are the larger ones of the same kind.
const (
	sqDir      = 1
	sqFile     = 2
	sqSymlink  = 3
	sqBlockDev = 4
	sqCharDev  = 5
	sqFIFO     = 6
	sqSocket   = 7
	sqLarger   = 7 // added
)

// sqTypes has the type in stat(2)'s mode, by the inode's.
var sqTypes = [8]uint16{0, 0o040000, 0o100000, 0o120000, 0o060000, 0o020000, 0o010000, 0o140000}

// sqFolder, sqContent and sqText are where an inode's bytes are.
type (
	sqFolder  struct{ list place }
	sqContent struct {
		start    int64 // of its first block in the image
		sizes    place // of its blocks
		fragment uint32
		offset   int64 // in the fragment
	}
	sqText struct{ text place }
)

func (s *squashfs) root() (node, error) { return s.node(s.sb.root) }

// node reads an inode. A reference is the metadata block, counted from the
// table's beginning, and the place in it.
func (s *squashfs) node(ref uint64) (node, error) {
	p := place{s.sb.inodes + int64(ref>>16&(1<<32-1)), int(ref & 0xffff)}
	b, err := s.take(&p, 16)
	if err != nil {
		return node{}, err
	}
	kind := le.Uint16(b)
	larger := kind > sqLarger
	if larger {
		kind -= sqLarger
	}
	if kind == 0 || kind > sqSocket {
		return node{}, corrupt("an inode of type %d", le.Uint16(b))
	}
	n := node{
		ref:  ref,
		mode: unixMode(le.Uint16(b[2:])&0o7777 | sqTypes[kind]),
		time: time.Unix(int64(le.Uint32(b[8:])), 0),
	}
	switch kind {
	case sqDir:
		err = s.folder(&n, p, larger)
	case sqFile:
		err = s.content(&n, p, larger)
	case sqSymlink:
		if b, err = s.take(&p, 8); err == nil {
			n.size, n.data = int64(le.Uint32(b[4:])), sqText{p}
		}
	}
	return n, err
}

// folder reads the rest of a folder's inode.
func (s *squashfs) folder(n *node, p place, larger bool) error {
	size := 16
	if larger {
		size = 24
	}
	b, err := s.take(&p, size)
	if err != nil {
		return err
	}
	start, off := le.Uint32(b), le.Uint16(b[10:])
	n.size = int64(le.Uint16(b[8:]))
	if larger {
		start, off = le.Uint32(b[8:]), le.Uint16(b[18:])
		n.size = int64(le.Uint32(b[4:]))
	}
	n.data = sqFolder{place{s.sb.directories + int64(start), int(off)}}
	return nil
}

// content reads the rest of a regular file's inode, up to the list of blocks.
func (s *squashfs) content(n *node, p place, larger bool) error {
	size := 16
	if larger {
		size = 40
	}
	b, err := s.take(&p, size)
	if err != nil {
		return err
	}
	c := sqContent{start: int64(le.Uint32(b)), fragment: le.Uint32(b[4:]), offset: int64(le.Uint32(b[8:]))}
	n.size = int64(le.Uint32(b[12:]))
	if larger {
		c = sqContent{start: int64(le.Uint64(b)), fragment: le.Uint32(b[28:]), offset: int64(le.Uint32(b[32:]))}
		n.size = int64(le.Uint64(b[8:]))
	}
	if c.start < 0 || n.size < 0 {
		return corrupt("a file of %d bytes at %d", n.size, c.start)
	}
	c.sizes = p
	n.data = c
	return nil
}

// list reads a folder: runs of entries, each after a header. Three bytes of
// its size are for "." and "..", which are not there.
func (s *squashfs) list(n node) ([]entry, error) {
	d, ok := n.data.(sqFolder)
	if !ok {
		return nil, errNotFolder
	}
	left := n.size - 3
	if left > maxFolder {
		return nil, corrupt("a folder of %d bytes", n.size)
	}
	var all []entry
	for left > 0 {
		head, err := s.take(&d.list, 12)
		if err != nil {
			return nil, err
		}
		left -= 12
		count, block := le.Uint32(head), uint64(le.Uint32(head[4:]))
		if count >= 256 { // SQUASHFS_DIR_COUNT
			return nil, corrupt("a folder with %d entries in a run", count)
		}
		for range count + 1 {
			b, err := s.take(&d.list, 8)
			if err != nil {
				return nil, err
			}
			name, err := s.take(&d.list, int(le.Uint16(b[6:]))+1)
			if err != nil {
				return nil, err
			}
			left -= int64(8 + len(name))
			if !validName(string(name)) || left < 0 {
				return nil, corrupt("a folder has the name %.64q", name)
			}
			all = append(all, entry{string(name), block<<16 | uint64(le.Uint16(b))})
		}
	}
	return all, nil
}

// cursor is a place in a file's list of blocks.
type cursor struct {
	set   bool
	ref   uint64 // of the file
	index int64  // number of the block
	sizes place  // of its size
	start int64  // where it begins in the image
}

func (s *squashfs) read(n node, p []byte, off int64) error {
	if t, ok := n.data.(sqText); ok {
		b, err := s.take(&t.text, len(p))
		copy(p, b)
		return err
	}
	c, ok := n.data.(sqContent)
	if !ok {
		return corrupt("it has no content")
	}
	for len(p) > 0 {
		block, err := s.block(n, c, off/s.sb.blockSize)
		if err != nil {
			return err
		}
		m := copy(p, block[off%s.sb.blockSize:])
		p, off = p[m:], off+int64(m)
	}
	return nil
}

// block returns the decompressed block of a file with a number, as long as the
// file goes in it.
func (s *squashfs) block(n node, c sqContent, index int64) ([]byte, error) {
	length := min(s.sb.blockSize, n.size-index*s.sb.blockSize)
	if length < s.sb.blockSize && c.fragment != noFragment {
		b, err := s.fragment(c.fragment)
		if err != nil {
			return nil, err
		}
		if int64(len(b)) < c.offset+length {
			return nil, corrupt("a fragment of %d bytes, of which %d are wanted from %d on", len(b), length, c.offset)
		}
		return b[c.offset : c.offset+length], nil
	}
	size, start, err := s.seek(n, c, index)
	if err != nil {
		return nil, err
	}
	b, err := s.dataAt(start, size, length)
	if err == nil && int64(len(b)) < length {
		err = corrupt("a block of %d bytes instead of %d", len(b), length)
	}
	if err != nil {
		return nil, err
	}
	return b[:length], nil
}

// seek walks the list of blocks up to one, from where it was left if it can.
func (s *squashfs) seek(n node, c sqContent, index int64) (size uint32, start int64, err error) {
	at := s.file
	if !at.set || at.ref != n.ref || at.index > index {
		at = cursor{true, n.ref, 0, c.sizes, c.start}
	}
	for {
		s.file = at
		b, err := s.take(&at.sizes, 4)
		if err != nil {
			return 0, 0, err
		}
		size = le.Uint32(b)
		if at.index == index {
			return size, at.start, nil
		}
		at.index++
		at.start += int64(size &^ dataPlain)
		if at.start > s.sb.used {
			return 0, 0, corrupt("a file behind its end")
		}
	}
}

// dataAt returns a block of data, whose length has the mark dataPlain where it
// is not compressed. A length of 0 is a hole of length bytes.
func (s *squashfs) dataAt(off int64, size uint32, length int64) ([]byte, error) {
	n := int64(size &^ dataPlain)
	switch {
	case n == 0:
		return make([]byte, length), nil
	case n > s.sb.blockSize:
		return nil, corrupt("a block of %d bytes at %d", n, off)
	case off == s.at:
		return s.data, nil
	}
	b, err := readAt(s.r, off, int(n))
	if err != nil {
		return nil, err
	}
	if size&dataPlain == 0 {
		if b, err = s.unpack(b, s.sb.blockSize); err != nil {
			return nil, corrupt("the block at %d: %v", off, err)
		}
	}
	s.at, s.data = off, b
	return b, nil
}

// fragment returns the block that the ends of several files share. Its place
// is found through a list of metadata blocks.
func (s *squashfs) fragment(index uint32) ([]byte, error) {
	if index >= s.sb.fragments {
		return nil, corrupt("the fragment %d of %d", index, s.sb.fragments)
	}
	const perBlock = metaSize / fragmentSize
	b, err := readAt(s.r, s.sb.fragmentsAt+8*int64(index/perBlock), 8)
	if err != nil {
		return nil, err
	}
	p := place{int64(le.Uint64(b)), int(index%perBlock) * fragmentSize}
	if b, err = s.take(&p, fragmentSize); err != nil {
		return nil, err
	}
	return s.dataAt(int64(le.Uint64(b)), le.Uint32(b[8:]), 0)
}
