// Package layout has what the reader of LUKS2 headers (luks2) and their writer
// (luks2/format) share: the offsets of the fields in the binary header, its
// checksum, and the values that are the same in every header. References are to
// the LUKS2 On-Disk Format Specification, version 1.1.4.
package layout

import (
	"bytes"
	"crypto/sha256"
)

// The binary header: all numbers big-endian, offsets in bytes
// (section 2.1, figure 2).
const (
	OffMagic     = 0   // 6 bytes
	OffVersion   = 6   // u16, 2
	OffSize      = 8   // u64, bytes of binary header and JSON area; then u64 sequence, label of 48 bytes
	OffAlgorithm = 72  // 32 bytes, checksum algorithm, padded with NUL
	OffSalt      = 104 // 64 bytes, only to make headers differ
	OffUUID      = 168 // 40 bytes, text, padded with NUL
	OffSubsystem = 208 // 48 bytes
	OffOffset    = 256 // u64, where this header is on the device
	OffPadding   = 264 // 184 bytes of zero
	OffChecksum  = 448 // 64 bytes, over binary header and JSON area with this field zero
	OffPadding2  = 512 // zero up to BinarySize

	// BinarySize is the size in bytes of the binary header; the JSON area
	// follows it.
	BinarySize = 4096
	// MinSize and MaxSize bound the size in bytes of binary header and JSON
	// area together (section 2.1, table 1).
	MinSize = 16 << 10
	MaxSize = 4 << 20

	PrimaryMagic   = "LUKS\xba\xbe" // of the first copy of the header
	SecondaryMagic = "SKUL\xba\xbe" // of the second
	ChecksumName   = "sha256"       // the only algorithm here
)

const (
	// Stripes is the only number of anti-forensic stripes that LUKS knows
	// (section 3.2.4).
	Stripes = 4000
	// MinIterations is the least of PBKDF2 that cryptsetup writes
	// (LUKS_SLOT_ITERATIONS_MIN in its lib/luks2/luks2_keyslot_luks2.c).
	MinIterations = 1000
)

// The kdf types (section 3.2.5).
const (
	PBKDF2   = "pbkdf2"
	Argon2i  = "argon2i" // read only
	Argon2id = "argon2id"
)

// Checksum returns the SHA-256 of a header, BinarySize bytes or more, with its
// checksum field zero.
func Checksum(header []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(header[:OffChecksum])
	h.Write(make([]byte, OffPadding2-OffChecksum))
	h.Write(header[OffPadding2:])
	return [sha256.Size]byte(h.Sum(nil))
}

// Text returns the JSON text of a header, which ends at the first NUL, and
// what follows that NUL. Without one, found is false.
func Text(header []byte) (text, rest []byte, found bool) {
	return bytes.Cut(header[BinarySize:], []byte{0})
}
