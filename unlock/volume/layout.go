package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// ErrSmall means that the disk cannot hold a volume.
var ErrSmall = errors.New("the disk is too small")

const (
	sectorSize = 512
	// BlockSize is what is encrypted, authenticated, read and written as one.
	BlockSize = 4096
	// macSize is what authenticates a block, in bytes: HMAC-SHA-256.
	macSize = 32
	// JournalTag is what dm-integrity keeps for each block with a journal, in bytes. A
	// commit writes whole sections of the journal, and the longer its entries
	// are, the smaller is a section: 36 KiB instead of 132. Of an fsync of 4 KiB
	// that leaves 92 KiB to write instead of 296. It takes 3.5 % more of the disk,
	// and dm-crypt takes a tag longer than its own from Linux 6.11 on.
	JournalTag = 184

	blockSectors      = BlockSize / sectorSize
	interleaveSectors = 32768 // of data between two runs of tags; the kernel's default
	// superblockSectors is what the superblock of dm-integrity takes before the
	// journal (SB_SECTORS in drivers/md/dm-integrity.c).
	superblockSectors = 8
)

// minSize is the least that a volume offers, in bytes: btrfs takes a smaller
// device, but does not grow on it (btrfs_ioctl_resize in fs/btrfs/ioctl.c).
const minSize = 256 << 20

// Layout is how a volume lies on its disk. What is on the disk has no say in it.
type Layout struct {
	Start   uint64 // where it begins on the disk, in bytes; a multiple of BlockSize
	Journal bool   // writes go through a journal: a power cut loses nothing that was flushed
	// Sections is the length of the journal, at least 1. Without Journal the
	// kernel sets it aside as well.
	Sections uint32
}

// area is the layout of dm-integrity's device, in sectors.
type area struct {
	size    uint64 // of the device
	initial uint64 // superblock and journal
	data    uint64 // what it offers, a multiple of blockSectors
}

// tagSize is what is kept for each block, in bytes.
func (l Layout) tagSize() uint64 {
	if l.Journal {
		return JournalTag
	}
	return macSize
}

// tagSectors is the length of a run of tags (metadata_run, with fix_padding).
func (l Layout) tagSectors() uint64 {
	return interleaveSectors / blockSectors * l.tagSize() / sectorSize
}

// sectionSectors is the length of a section of the journal: 8 sectors of entries,
// with the commit's number in the last 8 bytes of each, and then the block of
// each entry. An entry is the block's number, the last 8 bytes of its 8 sectors,
// and its tag (calculate_journal_section_size).
func (l Layout) sectionSectors() uint64 {
	entry := 8 + 8*blockSectors + l.tagSize()
	return 8 + 8*((sectorSize-8)/entry)*blockSectors
}

// area lays out a disk of size bytes.
func (l Layout) area(size uint64) (area, error) {
	if l.Sections == 0 || l.Start%BlockSize != 0 || size > 1<<60 {
		return area{}, fmt.Errorf("cannot lay out %d bytes from %d with a journal of %d sections", size, l.Start, l.Sections)
	}
	a := area{initial: superblockSectors + uint64(l.Sections)*l.sectionSectors()}
	if size > l.Start {
		a.size = (size - l.Start) / BlockSize * blockSectors
	}
	rest, tags := a.size-min(a.size, a.initial), l.tagSectors()
	a.data = rest / (tags + interleaveSectors) * interleaveSectors
	if last := rest % (tags + interleaveSectors); last > tags {
		a.data += (last - tags) / blockSectors * blockSectors
	}
	if a.data < minSize/sectorSize || a.initial > 1<<32-1 {
		return area{}, fmt.Errorf("%w: it has %d bytes, and room for %d; %d are needed", ErrSmall, size, a.data*sectorSize, minSize)
	}
	return a, nil
}

// Flags of the superblock.
const flagFixedPadding = 8

// superblock composes what dm-integrity finds (struct superblock in
// drivers/md/dm-integrity.c; little-endian): magic[8], version u8, log2 of
// the interleaved sectors u8, tag size u16, sections u32, sectors of data
// u64, flags u32, log2 of the sectors of a block u8, log2 of the blocks of a
// bitmap's bit u8. The rest is zero.
func (l Layout) superblock(a area) []byte {
	b := make([]byte, superblockSectors*sectorSize)
	copy(b, "integrt\x00")
	b[8] = 4 // the version with fixed padding
	b[9] = byte(bits.TrailingZeros(interleaveSectors))
	binary.LittleEndian.PutUint16(b[10:], uint16(l.tagSize()))
	binary.LittleEndian.PutUint32(b[12:], l.Sections)
	binary.LittleEndian.PutUint64(b[16:], a.data)
	binary.LittleEndian.PutUint32(b[24:], flagFixedPadding)
	b[28] = byte(bits.TrailingZeros(blockSectors))
	b[29] = l.bitmapBlocks(a)
	return b
}

// bitmapBlocks is not used in the modes that we use, but written.
func (l Layout) bitmapBlocks(a area) byte {
	inJournal := min((a.initial-superblockSectors)*sectorSize*8, 1<<32-1)
	shift := bits.TrailingZeros(interleaveSectors)
	for inJournal < (a.data+1<<shift-1)>>shift {
		shift++
	}
	return byte(shift - bits.TrailingZeros(blockSectors))
}

// JournalSections returns the length of the journal, in sections, for a disk of
// size bytes: a 128th of it, 64 MiB at most, as the kernel would choose.
func JournalSections(size uint64) uint32 {
	section := Layout{Journal: true}.sectionSectors() * sectorSize
	return uint32(max(1, min(size>>7, 64<<20)/section))
}
