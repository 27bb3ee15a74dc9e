// Package luks2 writes and checks LUKS2 headers. It reads and writes bytes
// only: the owner's tool formats with it, the guest checks with it.
//
// Format makes the header region of a new image. Check holds the header of
// any image, ours or cryptsetup's, against an allow-list of the one shape
// that the guest unlocks: one keyslot, one aes-xts-plain64 segment over the
// rest of the device, one digest, nothing else. LUKS2 headers are malleable:
// whoever can write one can name a null cipher, put a key of their own into
// the encryption string, or leave the digest empty, and the volume opens. So
// everything that is not known to be harmless is refused, and a second
// reader that is less strict about JSON finds no other meaning in what is
// accepted.
//
// The format is that of the LUKS2 On-Disk Format Specification, version
// 1.1.4 (docs/on-disk-format-luks2.pdf of cryptsetup), called "the
// specification" below.
//
// Check does not authenticate: a header of the allowed shape with another
// key in it passes. Its caller reads the header from a device whose every
// block is verified, and unlocks from that same device. Check reads no
// keyslot area and not the secondary header, and nothing here protects a
// weak passphrase. Key schedules and hash states of the standard library hold
// derived keys on the Go heap until it is collected and reused.
package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// HeaderRegion is the size in bytes of the region that Format makes, and
	// the offset of the encrypted data behind it.
	HeaderRegion = 1 << 20
	// KeySize is the size in bytes of the volume key, and of the key that
	// encrypts a keyslot: two AES-256 keys for XTS.
	KeySize = 64
	// Encryption is the only cipher that Format writes and Check accepts.
	Encryption = "aes-xts-plain64"
	// FormatSectorSize is the size in bytes of the encryption sectors of the
	// segment that Format writes.
	FormatSectorSize = 4096
	// BinaryHeaderSize is the size in bytes of the binary header at the start
	// of the device, which HeaderSize needs (specification, section 2.1).
	BinaryHeaderSize = 4096

	// FormatHeaderSize is the size in bytes of each copy of the header that
	// Format writes, one behind the other.
	FormatHeaderSize = minHeaderSize

	minHeaderSize = 16 << 10 // binary header and JSON area (section 2.1, table 1)
	maxHeaderSize = 4 << 20
)

// The binary header: all numbers big-endian, offsets in bytes
// (specification, section 2.1, figure 2).
const (
	offMagic     = 0   // 6 bytes
	offVersion   = 6   // u16, 2
	offSize      = 8   // u64, bytes of binary header and JSON area
	offSequence  = 16  // u64, grows with every update
	offLabel     = 24  // 48 bytes
	offAlgorithm = 72  // 32 bytes, checksum algorithm, padded with NUL
	offSalt      = 104 // 64 bytes, only to make headers differ
	offUUID      = 168 // 40 bytes, text, padded with NUL
	offSubsystem = 208 // 48 bytes
	offOffset    = 256 // u64, where this header stands on the device
	offPadding   = 264 // 184 bytes of zero
	offChecksum  = 448 // 64 bytes, over binary header and JSON area with this field zero
	offPadding2  = 512 // zero up to BinaryHeaderSize

	primaryMagic   = "LUKS\xba\xbe"
	secondaryMagic = "SKUL\xba\xbe"
	checksumName   = "sha256"
)

var (
	// ErrNotLUKS2 is returned for bytes that do not begin with a LUKS header.
	ErrNotLUKS2 = errors.New("no LUKS2 header at the start of the image: it is not encrypted, or its header is detached, or is of another version; seal it with cocoroot seal")
	// ErrSecondary is returned where the second copy of the header stands first.
	ErrSecondary = errors.New("the second copy of the LUKS2 header stands where the first belongs; see whether cryptsetup repair helps, or seal the image again")
	// ErrLUKS1 is returned for the older format. The converted header keeps
	// LUKS1's short digest, which Check refuses, hence the second command.
	ErrLUKS1 = errors.New("a LUKS1 header; convert it with `cryptsetup convert --type luks2` and then `cryptsetup reencrypt`, and hash the image again, or seal its content with cocoroot seal")
	// ErrChecksum is returned where the header does not match its checksum.
	ErrChecksum = errors.New("the LUKS2 header does not match its checksum: the image was damaged before it was hashed; seal it again")
)

// sealAgain is what helps against a header that is no good at all.
const sealAgain = "seal the image with cocoroot seal, or format it with cryptsetup luksFormat --type luks2 --cipher aes-xts-plain64 --key-size 512, one keyslot, no options"

// A FieldError says which field of a LUKS2 header is not acceptable.
type FieldError struct {
	Field  string // path in the JSON, such as keyslots.0.kdf.memory, or "header: NAME"
	Reason string
	Next   string // what the owner can do
}

func (e *FieldError) Error() string {
	return "cannot accept the LUKS2 header: " + e.Field + ": " + e.Reason + "; " + e.Next
}

// UUID is a UUID in the order of its text (RFC 9562), as LUKS2 and dm-verity
// store it.
type UUID [16]byte

// NewUUID reads 16 bytes of randomness and makes a version 4 UUID of them.
func NewUUID(random io.Reader) (UUID, error) {
	var u UUID
	if _, err := io.ReadFull(random, u[:]); err != nil {
		return UUID{}, fmt.Errorf("cannot make a UUID: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u, nil
}

// String returns the lower-case text form.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// HeaderSize reads the size in bytes of the header, binary and JSON, from its
// first BinaryHeaderSize bytes: 16 KiB to 4 MiB. These and the bytes up to
// that size are what Check wants. The bytes may be anybody's.
func HeaderSize(first []byte) (int, error) {
	if len(first) < BinaryHeaderSize {
		return 0, ErrNotLUKS2
	}
	switch string(first[offMagic:offVersion]) {
	case primaryMagic:
	case secondaryMagic:
		return 0, ErrSecondary
	default:
		return 0, ErrNotLUKS2
	}
	switch binary.BigEndian.Uint16(first[offVersion:]) {
	case 1:
		return 0, ErrLUKS1
	case 2:
	default:
		return 0, ErrNotLUKS2
	}
	size := binary.BigEndian.Uint64(first[offSize:])
	if size < minHeaderSize || size > maxHeaderSize || size&(size-1) != 0 {
		return 0, &FieldError{"header: size", fmt.Sprintf("%d is not a power of two from %d to %d", size, minHeaderSize, maxHeaderSize), sealAgain}
	}
	return int(size), nil
}

// checkBinary checks the binary header and returns the UUID's text and the
// JSON text.
func checkBinary(header []byte) (uuid string, text []byte, err error) {
	size, err := HeaderSize(header)
	if err != nil {
		return "", nil, err
	}
	if len(header) != size {
		return "", nil, fmt.Errorf("cannot check %d bytes of a LUKS2 header of %d", len(header), size)
	}
	if off := binary.BigEndian.Uint64(header[offOffset:]); off != 0 {
		return "", nil, &FieldError{"header: offset", fmt.Sprintf("%d is not 0", off), sealAgain}
	}
	if !paddedWith(header[offAlgorithm:offSalt], checksumName) {
		return "", nil, &FieldError{"header: checksum algorithm", "is not " + checksumName, sealAgain}
	}
	if !zero(header[offPadding:offChecksum]) || !zero(header[offChecksum+sha256.Size:BinaryHeaderSize]) {
		return "", nil, &FieldError{"header: padding", "is not zero", sealAgain}
	}
	sum := checksum(header)
	if !bytes.Equal(sum[:], header[offChecksum:offChecksum+sha256.Size]) {
		return "", nil, ErrChecksum
	}
	uuid, _, _ = cut(header[offUUID:offSubsystem])
	if !isUUID(uuid) || !paddedWith(header[offUUID:offSubsystem], uuid) {
		return "", nil, &FieldError{"header: UUID", "is not a UUID", sealAgain}
	}
	json, rest, found := cut(header[BinaryHeaderSize:])
	if !found {
		return "", nil, &FieldError{"header: JSON area", "has no NUL at the end", sealAgain}
	}
	if !zero(rest) {
		return "", nil, &FieldError{"header: JSON area", "has bytes behind its text", sealAgain}
	}
	return uuid, []byte(json), nil
}

// checksum returns the SHA-256 of the header with its checksum field zero.
func checksum(header []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(header[:offChecksum])
	h.Write(make([]byte, offPadding2-offChecksum))
	h.Write(header[offPadding2:])
	return [sha256.Size]byte(h.Sum(nil))
}

// cut splits at the first NUL.
func cut(b []byte) (text string, rest []byte, found bool) {
	before, rest, found := bytes.Cut(b, []byte{0})
	return string(before), rest, found
}

// paddedWith reports whether field is text and then only NULs.
func paddedWith(field []byte, text string) bool {
	rest, ok := bytes.CutPrefix(field, []byte(text))
	return ok && zero(rest)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// isUUID reports whether s has the text form of a UUID, in either case.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return false
		}
	}
	return true
}
