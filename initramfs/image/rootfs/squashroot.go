package rootfs

import (
	"encoding/binary"
	"fmt"
	"os"
)

// rootFolder is the root folder of a squashfs that is made of a tar.
type rootFolder struct {
	mode int64
	time uint32 // seconds since 1970
	ids  ids
}

// ids says which IDs take the place of others in the tar that mksquashfs gets,
// and what each ID of its squashfs has to become. mksquashfs gives the root folder
// to the user that it runs as; that ID must become 0, and so stand for no other.
type ids struct{ in, out map[uint32]uint32 }

// The largest ID that a tar may have, and those above it that stand for others.
const (
	maxID   = 1<<32 - 16
	spareID = maxID + 1
)

// idsOf returns what to do for a process with the IDs. Where both are one, as
// for root, the squashfs is the same byte for byte whoever makes it; otherwise its
// table of IDs has 0 twice.
func idsOf(uid, gid uint32) ids {
	if uid == gid {
		swap := map[uint32]uint32{0: uid, uid: 0}
		return ids{swap, swap}
	}
	m := ids{map[uint32]uint32{}, map[uint32]uint32{}}
	for i, id := range []uint32{uid, gid} {
		if spare := uint32(spareID + i); id != 0 {
			m.in[id], m.out[spare], m.out[id] = spare, id, 0
		}
	}
	return m
}

// replaced returns what stands for an ID.
func replaced(m map[uint32]uint32, id uint32) uint32 {
	if to, ok := m[id]; ok {
		return to
	}
	return id
}

// Where the superblock of squashfs 4.0 has what fixRoot needs; little endian
// (Linux, fs/squashfs/squashfs_fs.h, struct squashfs_super_block).
const (
	superLength = 96
	atIDCount   = 26 // two bytes
	atRoot      = 32 // eight: the block's offset in the table of inodes << 16, and the inode's in it
	atIDs       = 48 // eight: the offsets of the table's blocks
	atInodes    = 64 // eight

	metaBlock = 8192   // bytes of metadata after a header of two
	metaPlain = 0x8000 // in that header: it is not compressed
	atTime    = 8      // in any inode, four bytes
)

// fixRoot sets the root folder's time and the IDs in a squashfs that
// mksquashfs wrote with -noI.
func fixRoot(path string, time uint32, m ids) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot finish the squashfs: %w", err)
	}
	defer f.Close()
	p := patch{f: f}
	le := binary.LittleEndian
	super := p.read(0, superLength)
	inodes, root := int64(le.Uint64(super[atInodes:])), le.Uint64(super[atRoot:])
	p.check(inodes + int64(root>>16))
	for i := range uint32(4) { // the inode may lie in two blocks
		at := int64(root&0xffff) + atTime + int64(i)
		p.write(inodes+int64(root>>16)+at/metaBlock*(metaBlock+2)+2+at%metaBlock, byte(time>>(8*i)))
	}
	for i := range int64(le.Uint16(super[atIDCount:])) {
		block := int64(le.Uint64(p.read(int64(le.Uint64(super[atIDs:]))+i*4/metaBlock*8, 8)))
		p.check(block)
		at := block + 2 + i*4%metaBlock
		p.write(at, le.AppendUint32(nil, replaced(m.out, le.Uint32(p.read(at, 4))))...)
	}
	if p.err != nil {
		return fmt.Errorf("cannot finish the squashfs: %w", p.err)
	}
	return nil
}

// patch changes a file, up to the first error.
type patch struct {
	f   *os.File
	err error
}

func (p *patch) read(at int64, n int) []byte {
	b := make([]byte, n)
	if p.err == nil {
		_, p.err = p.f.ReadAt(b, at)
	}
	return b
}

func (p *patch) write(at int64, b ...byte) {
	if p.err == nil {
		_, p.err = p.f.WriteAt(b, at)
	}
}

// check checks that a block of metadata is not compressed.
func (p *patch) check(at int64) {
	if header := binary.LittleEndian.Uint16(p.read(at, 2)); p.err == nil && header&metaPlain == 0 {
		p.err = fmt.Errorf("%s compressed its inodes anyway", mksquashfs)
	}
}
