package fsimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cocoroot/unlock/policy"
)

// Errors returned by Detect.
var (
	// ErrUnknown is for bytes that begin none of the file systems.
	ErrUnknown = errors.New("no file system that the guest mounts (squashfs, erofs or ext4)")
	// ErrRecovery is for an ext4 that the guest, which cannot write to it,
	// could not mount.
	ErrRecovery = errors.New("the ext4 was not unmounted: its journal must be replayed first")
	// ErrCorrupt is for a file system that contradicts itself.
	ErrCorrupt = errors.New("the file system is corrupt")
)

// Where superblocks lie, and their lengths, in bytes.
const (
	squashfsSuper = 96   // at 0; fs/squashfs/squashfs_fs.h, struct squashfs_super_block
	secondSuper   = 1024 // erofs: EROFS_SUPER_OFFSET; ext4: block 1 of 1024 bytes
	erofsSuper    = 128  // fs/erofs/erofs_fs.h, struct erofs_super_block
	ext4Super     = 1024 // fs/ext4/ext4.h, struct ext4_super_block
	// HeadSize is how many bytes of a file system Detect looks at.
	HeadSize = secondSuper + ext4Super
)

// The magic numbers, as above.
const (
	squashfsMagic = 0x73717368
	erofsMagic    = 0xE0F5E1E2
	ext4Magic     = 0xEF53 // in two bytes, at 56
)

var le = binary.LittleEndian

// Detect returns which file system an image holds, and its length in bytes as
// its superblock has it. Bytes may follow, which do not belong to it.
//
// The errors are ErrUnknown, ErrRecovery, ErrCorrupt, r's, and one for what the
// guest's kernel or this package does not read.
func Detect(r io.ReaderAt) (kind policy.FSType, length int64, err error) {
	head := make([]byte, HeadSize) // with zeros where the image is shorter
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", 0, fmt.Errorf("cannot read the file system: %w", err)
	}
	second := head[secondSuper:]
	switch {
	case le.Uint32(head) == squashfsMagic:
		length, err = parseSquashfs(head)
		return policy.Squashfs, length, err
	case le.Uint32(second) == erofsMagic:
		length, err = parseEROFS(second)
		return policy.EROFS, length, err
	case le.Uint16(second[56:]) == ext4Magic:
		length, err = parseExt4(second)
		return policy.Ext4, length, err
	}
	return "", 0, ErrUnknown
}

// Other says what else a partition or a disk holds, or returns "".
func Other(r io.ReaderAt) string {
	for _, o := range []struct {
		at          int64 // bytes
		magic, name string
	}{
		{0, "LUKS\xba\xbe", "encrypted (LUKS)"},
		{512, "LABELONE", "a volume of LVM"},
		{0x10040, "_BHRfS_M", "a btrfs"},
		{0, "XFSB", "an XFS"},
		{54, "FAT1", "a FAT"},
		{82, "FAT32", "a FAT"},
		{4086, "SWAPSPACE2", "swap"},
		{0x8001, "CD001", "an ISO 9660"},
		{510, "\x55\xaa", "a disk with an MBR and no intact GUID partition table (sgdisk makes one, of a copy)"},
	} {
		b := make([]byte, len(o.magic))
		if _, err := r.ReadAt(b, o.at); err == nil && string(b) == o.magic {
			return o.name
		}
	}
	return ""
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

var errFeature = errors.New("the file system has a feature that is not supported")

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFeature, fmt.Sprintf(format, args...))
}

// parseSquashfs reads a superblock of squashfs 4.0, and returns the length of the
// file system.
func parseSquashfs(head []byte) (int64, error) {
	compression, major, minor, used := le.Uint16(head[20:]), le.Uint16(head[28:]), le.Uint16(head[30:]), int64(le.Uint64(head[40:]))
	switch {
	case major != 4 || minor != 0:
		return 0, unsupported("squashfs %d.%d; 4.0 is known", major, minor)
	case used < squashfsSuper:
		return 0, corrupt("squashfs of %d bytes", used)
	case compression != 1 && compression != 4 && compression != 5 && compression != 6:
		// Linux has no reader for lzma (2), the guest's kernel none for lzo (3).
		return 0, unsupported("squashfs with compression %d; gzip, xz, lz4 and zstd are known", compression)
	}
	return used, nil
}

// The features of erofs (EROFS_FEATURE_INCOMPAT_*) that do not mean that files
// are compressed. mkfs.erofs sets the first one always.
const (
	erofsZeroPadding = 0x01
	erofsChunked     = 0x04
	erofsPrefixes    = 0x40 // of extended attributes
	erofsKnown       = erofsZeroPadding | erofsChunked | erofsPrefixes
)

// erofsCompressed says why the guest reads no such file, and what to do.
const erofsCompressed = "an erofs with compressed files, whose plaintext the host could get to see; make it without compression, or make a squashfs"

func parseEROFS(b []byte) (int64, error) {
	features, devices, dirBits, bits := le.Uint32(b[80:]), le.Uint16(b[86:]), b[90], b[12]
	switch {
	case features&^erofsKnown != 0:
		return 0, unsupported("%s (features %#x)", erofsCompressed, features&^erofsKnown)
	case devices != 0:
		return 0, unsupported("erofs on more than one device")
	case dirBits != 0:
		return 0, unsupported("erofs with large blocks for folders")
	case bits < 9 || bits > 12: // of no use above PAGE_SIZE
		return 0, corrupt("erofs with blocks of 2^%d bytes", bits)
	}
	length, meta := int64(le.Uint32(b[36:]))<<bits, int64(le.Uint32(b[40:]))<<bits
	if meta >= length || length < secondSuper+erofsSuper {
		return 0, corrupt("erofs of %d bytes, with inodes from %d on", length, meta)
	}
	return length, nil
}

// The features of ext4 that are looked at (EXT4_FEATURE_*).
const (
	ext4FileType = 0x2
	ext4Recover  = 0x4
	ext4Extents  = 0x40
	ext464Bit    = 0x80
	ext4FlexBG   = 0x200
	ext4EAInode  = 0x400
	ext4CsumSeed = 0x2000
	ext4LargeDir = 0x4000
	ext4Known    = ext4FileType | ext4Extents | ext464Bit | ext4FlexBG | ext4EAInode | ext4CsumSeed | ext4LargeDir

	ext4Journal      = 0x4     // compatible
	ext4OrphansThere = 0x10000 // orphan_present, for writers
)

func parseExt4(b []byte) (int64, error) {
	compatible, incompatible, writers := le.Uint32(b[0x5c:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	if bad := incompatible &^ (ext4Known | ext4Recover); bad != 0 {
		return 0, unsupported("ext4 with the incompatible features %#x, which dumpe2fs -h names", bad)
	}
	if incompatible&ext4Recover != 0 || writers&ext4OrphansThere != 0 {
		return 0, ErrRecovery
	}
	if compatible&ext4Journal != 0 && le.Uint32(b[0xe0:]) == 0 {
		return 0, unsupported("ext4 with its journal on another device")
	}
	log := le.Uint32(b[0x18:])
	if log > 2 { // the guest's kernel has pages of 4096 bytes
		return 0, unsupported("ext4 with blocks of 2^%d bytes", uint64(log)+10)
	}
	size, blocks, first := uint64(1024)<<log, uint64(le.Uint32(b[0x4:])), uint64(le.Uint32(b[0x14:]))
	if incompatible&ext464Bit != 0 {
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	switch {
	case blocks > 1<<62/size:
		return 0, corrupt("ext4 with %d blocks", blocks)
	case first >= blocks || (size == 1024) != (first == 1):
		return 0, corrupt("ext4 that begins with block %d of %d", first, blocks)
	}
	return int64(blocks * size), nil
}
