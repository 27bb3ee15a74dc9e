// Package gpt reads a disk's GUID partition table. The guest asks it which
// partition number has which GUID: where the partitions lie is the kernel's to
// know, which shows a partition's number in sysfs but, up to Linux 6.12, not its
// GUID.
//
// The format is the UEFI specification's (2.10, chapter 5.3); what is accepted
// is what Linux accepts (block/partitions/efi.c), because a partition that the
// kernel does not show cannot be used. All integers are little-endian.
//
// The host writes the table. Its checksums show damage, not a forger: whoever
// finds a partition by its GUID knows nothing of its content.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"cocoroot/unlock/efi"
)

const (
	signature = "EFI PART"
	// headerSize is the least size of a header in bytes; it ends with its sector.
	headerSize = 92
	// entrySize is the size of an entry in bytes. The specification allows
	// its multiples, Linux does not.
	entrySize = 128
	// maxEntries bounds what is read: 128 KiB. The usual number is 128, and
	// Linux has 255 partitions a disk at most.
	maxEntries = 1024
	// minSector and maxSector bound a logical sector, bytes.
	minSector, maxSector = 512, 4096
	// primaryLBA is the place of the first of the two headers; the other one
	// is in the disk's last sector.
	primaryLBA = 1
)

// errTable is returned for a disk without an intact table.
var errTable = errors.New("no intact GUID partition table")

// Partition is a used entry of the table.
type Partition struct {
	Number      int      // from 1, as in the kernel's names
	GUID        efi.GUID // of this partition
	Type        efi.GUID // what is in it
	First, Last uint64   // logical sectors, both in it; nothing is checked of them
	Name        string   // its label: any text of up to 36 UTF-16 units
}

// Read reads the table of a disk of size bytes with the given logical sector
// size in bytes, a power of two from 512 to 4096: the primary one, or its
// backup when that is damaged; Linux wants "gpt" on its command line to do the
// same. It makes four reads at most.
func Read(disk io.ReaderAt, size uint64, sector int) ([]Partition, error) {
	if sector < minSector || sector > maxSector || sector&(sector-1) != 0 {
		return nil, fmt.Errorf("%w: logical sectors of %d bytes", errTable, sector)
	}
	sectors := size / uint64(sector)
	if sectors <= primaryLBA+1 {
		return nil, fmt.Errorf("%w: the disk has %d sectors", errTable, sectors)
	}
	parts, err := readTable(disk, primaryLBA, sectors, sector)
	if err == nil {
		return parts, nil
	}
	parts, backupErr := readTable(disk, sectors-1, sectors, sector)
	if backupErr != nil {
		return nil, fmt.Errorf("%w: primary: %w; backup: %w", errTable, err, backupErr)
	}
	return parts, nil
}

// readTable reads the header in the sector lba, and its entries.
func readTable(disk io.ReaderAt, lba, sectors uint64, sector int) ([]Partition, error) {
	b := make([]byte, sector)
	if _, err := disk.ReadAt(b, int64(lba*uint64(sector))); err != nil {
		return nil, err
	}
	h, err := parseHeader(b, lba)
	if err != nil {
		return nil, err
	}
	if h.entriesLBA >= sectors {
		return nil, errors.New("the entries lie outside the disk")
	}
	table := make([]byte, h.entries*entrySize)
	if _, err := disk.ReadAt(table, int64(h.entriesLBA*uint64(sector))); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(table) != h.entriesCRC {
		return nil, errors.New("the entries' checksum is wrong")
	}
	return parseEntries(table), nil
}

// header is what is used of a header.
type header struct {
	entriesLBA uint64
	entries    uint32 // number, 1 to maxEntries
	entriesCRC uint32 // CRC-32 (IEEE) of all of them
}

// parseHeader reads the header that begins in b, the sector lba.
func parseHeader(b []byte, lba uint64) (header, error) {
	le := binary.LittleEndian
	if !bytes.HasPrefix(b, []byte(signature)) {
		return header{}, errors.New("it has no header")
	}
	size := le.Uint32(b[12:])
	if size < headerSize || uint64(size) > uint64(len(b)) {
		return header{}, fmt.Errorf("a header of %d bytes", size)
	}
	sum := crc32.ChecksumIEEE(b[:16]) // the field itself counts as zero
	sum = crc32.Update(sum, crc32.IEEETable, make([]byte, 4))
	sum = crc32.Update(sum, crc32.IEEETable, b[20:size])
	if sum != le.Uint32(b[16:]) {
		return header{}, errors.New("the header's checksum is wrong")
	}
	if at := le.Uint64(b[24:]); at != lba {
		return header{}, fmt.Errorf("the header in sector %d is that of sector %d", lba, at)
	}
	h := header{entriesLBA: le.Uint64(b[72:]), entries: le.Uint32(b[80:]), entriesCRC: le.Uint32(b[88:])}
	if h.entries == 0 || h.entries > maxEntries {
		return header{}, fmt.Errorf("%d entries; at most %d are read", h.entries, maxEntries)
	}
	if n := le.Uint32(b[84:]); n != entrySize {
		return header{}, fmt.Errorf("entries of %d bytes; Linux reads those of %d", n, entrySize)
	}
	return h, nil
}

// parseEntries returns the entries with a type: the zero GUID marks an unused one.
func parseEntries(table []byte) []Partition {
	var parts []Partition
	for i := range len(table) / entrySize {
		e := table[i*entrySize:]
		if kind := efi.GUID(e[:16]); !kind.IsZero() {
			parts = append(parts, Partition{
				Number: i + 1, GUID: efi.GUID(e[16:32]), Type: kind,
				First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:]), Name: parseName(e[56:entrySize]),
			})
		}
	}
	return parts
}

// parseName decodes UTF-16 that ends with a zero, or fills its field.
func parseName(field []byte) string {
	var units []uint16
	for ; len(field) > 0; field = field[2:] {
		unit := binary.LittleEndian.Uint16(field)
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}
