package fsimage

import "bytes"

// Compressed files of an erofs are cut into logical clusters, of mostly one
// block. Each has an index entry: a head begins an extent somewhere in the
// cluster, which goes on to the next head; its compressed bytes are whole
// blocks. (fs/erofs/zmap.c of Linux 6.12 walks these by the distances that
// stand in the entries that are no heads; here they are counted.)

// The types of an entry (Z_EROFS_LCLUSTER_TYPE_*).
const (
	clusterPlain = 0 // a head of bytes that are not compressed
	clusterHead1 = 1
	clusterOn    = 2 // the extent goes on
	clusterHead2 = 3
)

// What is said of a file before its index (Z_EROFS_ADVISE_*).
const (
	adviseTwoBytes   = 0x01 // of some entries of a compact index
	adviseBig1       = 0x02 // extents of head 1 may have more than one block
	adviseBig2       = 0x04
	adviseInline     = 0x08 // the last extent lies behind the index
	adviseInterlaced = 0x10 // plain blocks are rotated
	adviseFragment   = 0x20 // the last extent lies in the packed inode
)

const (
	blockCount   = 1 << 11  // Z_EROFS_LI_D0_CBLKCNT: the entry has the extent's number of blocks
	maxExtent    = 12 << 20 // bytes decompressed, Z_EROFS_PCLUSTER_MAX_DSIZE
	maxExtentZip = 1 << 20  // bytes compressed, Z_EROFS_PCLUSTER_MAX_SIZE
)

// zipFile is a compressed file.
type zipFile struct {
	n      node
	layout int
	index  int64 // where the entries begin in the image
	advise uint16
	bits   uint   // of the cluster's size
	tail   int64  // bytes of an inline last extent
	packed uint64 // where the fragment lies in the packed inode
	whole  bool   // all of the file is the fragment
}

// cluster is an index entry.
type cluster struct {
	kind   int
	offset int64 // in the cluster, of a head
	block  int64 // of a head's first compressed byte
	blocks int64 // where the entry has it
	end    int64 // of the group of entries, in the image
}

// extent is a decompressed piece of a file.
type extent struct {
	set   bool
	ref   uint64 // of the file
	start int64  // in the file
	data  []byte
}

// zip reads what stands before the index (struct z_erofs_map_header).
func (e *erofs) zip(n node, d erofsData) (zipFile, error) {
	at := (d.after + 7) &^ 7
	b, err := e.meta.at(at, 8)
	if err != nil {
		return zipFile{}, err
	}
	z := zipFile{n: n, layout: d.layout, index: at + 8}
	if b[7]&0x80 != 0 {
		z.whole, z.packed = true, le.Uint64(b)&^(1<<63)
		return z, nil
	}
	z.advise, z.bits = le.Uint16(b[4:]), e.sb.bits+uint(b[7]&15)
	if d.layout == erofsFull {
		z.index += 8
	}
	switch {
	case z.bits > 14:
		return z, unsupported("erofs with clusters of 2^%d bytes", z.bits)
	case z.advise > 0x3f:
		return z, unsupported("compressed erofs of the form %#x", z.advise)
	case d.layout == erofsCompact && z.advise&adviseTwoBytes != 0 && z.bits > 12:
		return z, corrupt("a compact index of clusters with 2^%d bytes", z.bits)
	case b[6] != 0:
		return z, unsupported("erofs compressed with something other than lz4")
	case z.advise&adviseFragment != 0:
		z.packed = uint64(le.Uint32(b))
	case z.advise&adviseInline != 0:
		z.tail = int64(le.Uint16(b[2:]))
	}
	return z, nil
}

// entry returns an index entry.
func (e *erofs) entry(z zipFile, number int64) (cluster, error) {
	var c cluster
	var err error
	if z.layout == erofsFull {
		c, err = e.fullEntry(z, number)
	} else {
		c, err = e.compactEntry(z, number)
	}
	if err == nil && c.offset >= 1<<z.bits {
		err = corrupt("an extent that begins at byte %d of a cluster", c.offset)
	}
	return c, err
}

// fullEntry reads a struct z_erofs_lcluster_index.
func (e *erofs) fullEntry(z zipFile, number int64) (cluster, error) {
	at := z.index + 8*number
	b, err := e.meta.at(at, 8)
	if err != nil {
		return cluster{}, err
	}
	c := cluster{kind: int(b[0] & 3), end: at + 8}
	if c.kind != clusterOn {
		c.offset, c.block = int64(le.Uint16(b[2:])), int64(le.Uint32(b[4:]))
	} else if n := le.Uint16(b[4:]); n&blockCount != 0 {
		c.blocks = int64(n &^ blockCount)
	}
	return c, nil
}

// compactEntry reads one of a group of entries, which are bit fields before
// one block number: groups of two in eight bytes, and where the file says so
// of sixteen in 32 bytes, from the first multiple of 32 bytes on.
func (e *erofs) compactEntry(z zipFile, number int64) (cluster, error) {
	at, size, count := z.index, int64(8), int64(2)
	before := (32 - at%32) / 4 & 7
	small := int64(0)
	if all := (z.n.size + e.blockSize() - 1) >> e.sb.bits; z.advise&adviseTwoBytes != 0 && before < all {
		small = (all - before) &^ 15
	}
	switch {
	case number < before:
		at += 4 * number
	case number < before+small:
		at += 4*before + 2*(number-before)
		size, count = 32, 16
	default:
		at += 4*before + 2*small + 4*(number-before-small)
	}
	group := at &^ (size - 1)
	b, err := e.meta.at(group, int(size))
	if err != nil {
		return cluster{}, err
	}
	width := uint((size - 4) * 8 / count)
	low := max(z.bits, 12)
	field := func(i int64) (kind int, value int64) {
		v := le.Uint32(b[uint(i)*width/8:]) >> (uint(i) * width & 7)
		return int(v >> low & 3), int64(v & (1<<low - 1))
	}
	i := (at - group) / (size / count)
	c := cluster{end: group + size}
	if c.kind, c.offset = field(i); c.kind == clusterOn {
		if c.offset&blockCount != 0 {
			c.blocks = c.offset &^ blockCount
		}
		c.offset = 0
		return c, nil
	}
	// The block number is that before the group's first head; each extent that
	// begins or tells its length in the group moves it on.
	c.block = int64(le.Uint32(b[size-4:]))
	big := z.advise&adviseBig1 != 0
	if !big {
		c.block++
	}
	for k := range i {
		kind, value := field(k)
		switch {
		case kind == clusterOn && big && value&blockCount != 0:
			c.block += value &^ blockCount
		case kind != clusterOn:
			if next, v := field(k + 1); !big || next != clusterOn || v&blockCount == 0 {
				c.block++
			}
		}
	}
	return c, nil
}

// extentAt returns the extent with a byte of a file.
func (e *erofs) extentAt(n node, d erofsData, off int64) (extent, error) {
	if x := e.extent; x.set && x.ref == n.ref && off >= x.start && off-x.start < int64(len(x.data)) {
		return x, nil
	}
	z, err := e.zip(n, d)
	if err != nil {
		return extent{}, err
	}
	if z.whole {
		return e.fragment(z, 0, off)
	}
	head, number, err := e.headOf(z, off)
	if err != nil {
		return extent{}, err
	}
	start := number<<z.bits + head.offset
	end, err := e.endOf(z, number, start)
	if err != nil {
		return extent{}, err
	}
	last := end == n.size
	if last && z.advise&adviseFragment != 0 {
		if z.layout == erofsFull {
			z.packed |= uint64(head.block) << 32
		}
		return e.fragment(z, start, off)
	}
	at, length := head.block<<e.sb.bits, int64(0)
	if last && z.tail > 0 {
		c, err := e.entry(z, (n.size-1)>>z.bits)
		if err != nil {
			return extent{}, err
		}
		at, length = c.end, z.tail
	} else if length, err = e.lengthOf(z, head, number); err != nil {
		return extent{}, err
	}
	x := extent{set: true, ref: n.ref, start: start}
	if x.data, err = e.unpack(z, head, at, length, start, end-start); err != nil {
		return extent{}, err
	}
	e.extent = x
	return x, nil
}

// headOf returns the head whose extent has a byte, and its number.
func (e *erofs) headOf(z zipFile, off int64) (cluster, int64, error) {
	for number := off >> z.bits; number >= 0 && off-number<<z.bits <= maxExtent; number-- {
		c, err := e.entry(z, number)
		if err != nil {
			return c, 0, err
		}
		if c.kind != clusterOn && number<<z.bits+c.offset <= off {
			return c, number, nil
		}
	}
	return cluster{}, 0, corrupt("no extent has byte %d of a file", off)
}

// endOf returns where an extent ends in the file.
func (e *erofs) endOf(z zipFile, number, start int64) (int64, error) {
	for {
		number++
		if number<<z.bits >= z.n.size {
			if z.n.size-start > maxExtent {
				break
			}
			return z.n.size, nil
		}
		if number<<z.bits-start > maxExtent {
			break
		}
		c, err := e.entry(z, number)
		if err != nil {
			return 0, err
		}
		if c.kind != clusterOn {
			return min(number<<z.bits+c.offset, z.n.size), nil
		}
	}
	return 0, corrupt("an extent of more than %d bytes", maxExtent)
}

// lengthOf returns how many bytes an extent has on disk.
func (e *erofs) lengthOf(z zipFile, head cluster, number int64) (int64, error) {
	big := z.advise&adviseBig2 != 0
	if head.kind == clusterHead1 {
		big = z.advise&adviseBig1 != 0
	}
	if !big || (number+1)<<z.bits >= z.n.size {
		return e.blockSize(), nil
	}
	c, err := e.entry(z, number+1)
	if err != nil {
		return 0, err
	}
	length := max(c.blocks, 1) << e.sb.bits
	if length > maxExtentZip {
		return 0, corrupt("an extent of %d bytes on disk", length)
	}
	return length, nil
}

// unpack reads an extent of length bytes on disk, and want in the file.
func (e *erofs) unpack(z zipFile, head cluster, at, length, start, want int64) ([]byte, error) {
	in, err := readAt(e.r, at, int(length))
	if err != nil {
		return nil, err
	}
	if head.kind == clusterPlain {
		if want > length {
			return nil, corrupt("%d plain bytes in %d", want, length)
		}
		if z.advise&adviseInterlaced != 0 {
			// Each byte has the place in its block that it has in the file.
			first := min(e.blockSize()-start&(e.blockSize()-1), length)
			in = append(in[length-first:length:length], in[:length-first]...)
		}
		return in[:want], nil
	}
	if e.sb.features&erofsZeroPadding != 0 {
		first := min(length, e.blockSize()-at&(e.blockSize()-1))
		in = in[first-int64(len(bytes.TrimLeft(in[:first], "\x00"))):]
	}
	out := make([]byte, want)
	if n, err := lz4Block(out, in); err != nil || int64(n) != want {
		return nil, corrupt("the extent at byte %d: %d of %d bytes: %v", at, n, want, err)
	}
	return out, nil
}

// fragment returns some of an extent from start to the file's end that lies
// in the packed inode, with the byte at off.
func (e *erofs) fragment(z zipFile, start, off int64) (extent, error) {
	if z.n.ref == e.sb.packed || e.sb.features&erofsFragments == 0 {
		return extent{}, corrupt("a fragment where none can be")
	}
	packed, err := e.node(e.sb.packed)
	if err != nil {
		return extent{}, err
	}
	length := min(z.n.size-off, maxExtentZip)
	from := int64(z.packed) + off - start
	if from < 0 || from > packed.size-length {
		return extent{}, corrupt("a fragment at byte %d of %d", from, packed.size)
	}
	x := extent{set: true, ref: z.n.ref, start: off, data: make([]byte, length)}
	if err := e.read(packed, x.data, from); err != nil {
		return extent{}, err
	}
	e.extent = x
	return x, nil
}
