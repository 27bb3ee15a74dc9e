package gpt_test

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"

	"cocoroot/unlock/efi"
)

// A writer of disks with a GUID partition table, to change them as no tool does.
// fdisk is its referee.

const (
	entries, entrySize = 128, 128
	// start is where the first partition may begin, bytes: after the table,
	// on the boundary that partitioning tools choose.
	start = 1 << 20
)

// part is a partition: entry number (from 1) of the table, with its content,
// which is at least a byte and fills it.
type part struct {
	number  int
	guid    efi.GUID
	name    string
	content []byte
}

// linuxData is the type that sfdisk gives a partition.
var linuxData = efi.MustParse("0fc63daf-8483-4772-8e79-3d69d8477de4")

// newDisk returns a disk with the partitions one after the other, for logical
// sectors of the given size in bytes.
func newDisk(sector int, parts ...part) []byte {
	size := start
	for _, p := range parts {
		size += (len(p.content) + start - 1) / start * start
	}
	disk := make([]byte, size+start) // the backup table is in the last MiB
	table := make([]byte, entries*entrySize)
	for at, i := start, 0; i < len(parts); i++ {
		p := parts[i]
		copy(disk[at:], p.content)
		e := table[(p.number-1)*entrySize:]
		copy(e, linuxData[:])
		copy(e[16:], p.guid[:])
		put64(e[32:], at/sector)
		put64(e[40:], (at+len(p.content)-1)/sector)
		for j, c := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], c)
		}
		at += (len(p.content) + start - 1) / start * start
	}
	last := len(disk)/sector - 1
	inTable := len(table) / sector
	copy(disk[2*sector:], table)
	copy(disk[(last-inTable)*sector:], table)
	protectiveMBR(disk, last)
	header(disk, sector, 1, last, 2)
	header(disk, sector, last, 1, last-inTable)
	sumBoth(disk, sector)
	return disk
}

// protectiveMBR has one partition over all of the disk; Linux wants to see it.
func protectiveMBR(disk []byte, last int) {
	e := disk[446:]
	e[2], e[4] = 2, 0xee // its first sector in the old count, its type
	e[5], e[6], e[7] = 0xff, 0xff, 0xff
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(last))
	disk[510], disk[511] = 0x55, 0xaa
}

func header(disk []byte, sector, lba, other, table int) {
	h := disk[lba*sector:]
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[8:], 0x10000) // revision 1.0
	binary.LittleEndian.PutUint32(h[12:], 92)
	put64(h[24:], lba)
	put64(h[32:], other)
	put64(h[40:], start/sector)
	put64(h[48:], len(disk)/sector-1-entries*entrySize/sector-1)
	copy(h[56:], "the disk's GUID.")
	put64(h[72:], table)
	binary.LittleEndian.PutUint32(h[80:], entries)
	binary.LittleEndian.PutUint32(h[84:], entrySize)
}

// sumBoth corrects the checksums of both tables, as far as they can be followed.
func sumBoth(disk []byte, sector int) {
	le := binary.LittleEndian
	for _, h := range headers(disk, sector) {
		at, n := le.Uint64(h[72:]), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
		if all := uint64(len(disk)); at < all && at*uint64(sector) < all && n <= all-at*uint64(sector) {
			le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[at*uint64(sector):][:n]))
		}
	}
	sumHeaders(disk, sector)
}

// sumHeaders corrects only the checksums of both headers.
func sumHeaders(disk []byte, sector int) {
	le := binary.LittleEndian
	for _, h := range headers(disk, sector) {
		if size := le.Uint32(h[12:]); size >= 20 && int64(size) <= int64(sector) {
			le.PutUint32(h[16:], 0)
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
		}
	}
}

// headers returns the sectors of both headers.
func headers(disk []byte, sector int) [][]byte {
	return [][]byte{disk[sector : 2*sector], disk[len(disk)-sector:]}
}

func put64(b []byte, v int) { binary.LittleEndian.PutUint64(b, uint64(v)) }
