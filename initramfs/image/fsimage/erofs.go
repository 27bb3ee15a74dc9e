package fsimage

import (
	"bytes"
	"io"
	"time"
)

// The layouts of an inode's data (EROFS_INODE_* in fs/erofs/erofs_fs.h of
// Linux 6.12). Compressed data is read into pages that may hold parts of the
// file already, so the guest refuses it (SECURITY.md); 1 and 3 are compressed.
const (
	erofsPlain  = 0 // whole blocks
	erofsInline = 2 // whole blocks, and the rest behind the inode
	erofsChunks = 4 // blocks of any size, holes
)

// erofs is an erofs. Inodes lie in slots of 32 bytes; a slot's number is the
// inode's.
type erofs struct {
	r    io.ReaderAt
	meta *pages
	sb   erofsSB
}

func newEROFS(r io.ReaderAt, head []byte) (volume, error) {
	sb, err := parseEROFS(head)
	return &erofs{r: r, meta: newPages(r), sb: sb}, err
}

func (e *erofs) blockSize() int64 { return 1 << e.sb.bits }

// erofsData is where an inode's bytes are.
type erofsData struct {
	layout int
	after  int64  // where the inode ends and its attributes too, in the image
	where  uint32 // i_u: the first block, or what chunks look like
}

func (e *erofs) root() (node, error) { return e.node(e.sb.root) }

func (e *erofs) node(ref uint64) (node, error) {
	if ref >= uint64(e.sb.length)/32 {
		return node{}, corrupt("the inode %d", ref)
	}
	at := e.sb.meta + int64(ref)*32
	b, err := e.meta.at(at, 32)
	if err != nil {
		return node{}, err
	}
	format, attributes := le.Uint16(b), int64(le.Uint16(b[2:]))
	n := node{ref: ref, mode: unixMode(le.Uint16(b[4:])), size: int64(le.Uint32(b[8:])), time: time.Unix(e.sb.built, 0)}
	d := erofsData{layout: int(format >> 1 & 7), where: le.Uint32(b[16:]), after: at + 32}
	if format&1 != 0 { // the larger form
		if b, err = e.meta.at(at, 64); err != nil {
			return node{}, err
		}
		n.size, n.time = int64(le.Uint64(b[8:])), time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:])))
		d.after += 32
	}
	if format>>4 != 0 || d.layout > erofsChunks {
		return node{}, unsupported("an erofs inode of the form %#x", format)
	}
	if d.layout != erofsPlain && d.layout != erofsInline && d.layout != erofsChunks {
		return node{}, unsupported(erofsCompressed)
	}
	if n.size < 0 {
		return node{}, corrupt("a file of %d bytes", uint64(n.size))
	}
	if attributes > 0 {
		d.after += 12 + 4*(attributes-1)
	}
	n.data = d
	return n, nil
}

// list reads a folder: in each block first its entries, whose number the first
// one's name tells, and then their names.
func (e *erofs) list(n node) ([]entry, error) {
	if n.size > maxFolder {
		return nil, corrupt("a folder of %d bytes", n.size)
	}
	var all []entry
	for off := int64(0); off < n.size; off += e.blockSize() {
		b := make([]byte, min(e.blockSize(), n.size-off))
		if err := e.read(n, b, off); err != nil {
			return nil, err
		}
		more, err := erofsEntries(b)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

func erofsEntries(b []byte) ([]entry, error) {
	const size = 12 // struct erofs_dirent
	if len(b) < size {
		return nil, corrupt("a folder's block of %d bytes", len(b))
	}
	first := int(le.Uint16(b[8:]))
	if first < size || first%size != 0 || first > len(b) {
		return nil, corrupt("a folder's block with names from byte %d on", first)
	}
	var all []entry
	for i := 0; i < first; i += size {
		from, to := int(le.Uint16(b[i+8:])), len(b)
		last := i+size == first
		if !last {
			to = int(le.Uint16(b[i+size+8:]))
		}
		if from < first || from >= to || to > len(b) {
			return nil, corrupt("a folder with a name from byte %d to %d", from, to)
		}
		name := b[from:to]
		if end := bytes.IndexByte(name, 0); last && end >= 0 {
			name = name[:end]
		}
		switch {
		case string(name) == "." || string(name) == "..":
		case !validName(string(name)):
			return nil, corrupt("a folder has the name %.64q", name)
		default:
			all = append(all, entry{string(name), le.Uint64(b[i:])})
		}
	}
	return all, nil
}

func (e *erofs) read(n node, p []byte, off int64) error {
	d, ok := n.data.(erofsData)
	if !ok {
		return corrupt("it has no content")
	}
	for len(p) > 0 {
		m, err := e.some(n, d, p, off)
		if err != nil {
			return err
		}
		p, off = p[m:], off+int64(m)
	}
	return nil
}

// some reads at least one byte.
func (e *erofs) some(n node, d erofsData, p []byte, off int64) (int, error) {
	switch d.layout {
	case erofsPlain:
		return len(p), readInto(e.r, p, int64(d.where)<<e.sb.bits+off)
	case erofsInline:
		tail := n.size &^ (e.blockSize() - 1)
		if off >= tail {
			return len(p), readInto(e.r, p, d.after+off-tail)
		}
		p = p[:min(int64(len(p)), tail-off)]
		return len(p), readInto(e.r, p, int64(d.where)<<e.sb.bits+off)
	}
	return e.chunk(d, p, off)
}

// chunk reads what is in one chunk.
func (e *erofs) chunk(d erofsData, p []byte, off int64) (int, error) {
	const hole = 1<<32 - 1 // EROFS_NULL_ADDR
	bits := e.sb.bits + uint(d.where&0x1f)
	if bits > 40 || d.where&0xffc0 != 0 { // EROFS_CHUNK_FORMAT_ALL
		return 0, corrupt("chunks of the form %#x", d.where)
	}
	unit := int64(4)
	if d.where&0x20 != 0 { // with indexes
		unit = 8
	}
	at := (d.after+unit-1)&^(unit-1) + unit*(off>>bits)
	b, err := e.meta.at(at, int(unit))
	if err != nil {
		return 0, err
	}
	in := off & (1<<bits - 1)
	p = p[:min(int64(len(p)), 1<<bits-in)]
	block := le.Uint32(b[unit-4:])
	if unit == 8 && le.Uint16(b[2:]) != 0 {
		return 0, unsupported("erofs on more than one device")
	}
	if block == hole {
		clear(p)
		return len(p), nil
	}
	return len(p), readInto(e.r, p, int64(block)<<e.sb.bits+in)
}
