// Package luks2 checks LUKS2 headers, of images that luks2/format or cryptsetup
// made. It handles bytes only.
//
// Check checks a header against an allow-list of the one shape that the guest
// unlocks: one keyslot, one aes-xts-plain64 segment over the rest of the device,
// one digest, nothing else. LUKS2 headers are malleable:
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

	"cocoroot/unlock/efi"
	"cocoroot/unlock/luks2/internal/layout"
)

const (
	// KeySize is the size in bytes of the volume key, and of the key that
	// encrypts a keyslot: two AES-256 keys for XTS.
	KeySize = 64
	// Encryption is the only cipher that Check accepts.
	Encryption = "aes-xts-plain64"
	// BinaryHeaderSize is the size in bytes of the binary header at the start
	// of the device, which HeaderSize needs (specification, section 2.1).
	BinaryHeaderSize = layout.BinarySize
)

var (
	// errNotLUKS2 is returned for bytes that do not begin with a LUKS header.
	errNotLUKS2 = errors.New("no LUKS2 header at the start of the image: it is not encrypted, or its header is detached, or is of another version; seal it with cocoroot seal")
	// errSecondary is returned where the second copy of the header comes first.
	errSecondary = errors.New("the second copy of the LUKS2 header is where the first belongs; try cryptsetup repair, or seal the image again")
	// errLUKS1 is returned for the older format. The converted header keeps
	// LUKS1's short digest, which Check refuses, hence the second command.
	errLUKS1 = errors.New("a LUKS1 header; convert it with `cryptsetup convert --type luks2` and then `cryptsetup reencrypt`, and hash the image again, or seal its content with cocoroot seal")
	// errChecksum is returned where the header does not match its checksum.
	errChecksum = errors.New("the LUKS2 header does not match its checksum: the image was damaged before it was hashed; seal it again")
)

// sealAgain is the advice for a header that cannot be repaired.
const sealAgain = "seal the image with cocoroot seal, or format it with cryptsetup luksFormat --type luks2 --cipher aes-xts-plain64 --key-size 512, one keyslot, no options"

// A FieldError says which field of a LUKS2 header is not acceptable.
type FieldError struct {
	Field  string // path in the JSON, such as keyslots.0.kdf.memory, or "header: NAME"
	Reason string
	Next   string // what the owner can do
}

// Error implements error.
func (e *FieldError) Error() string {
	return "cannot accept the LUKS2 header: " + e.Field + ": " + e.Reason + "; " + e.Next
}

// HeaderSize reads the size in bytes of the header, binary and JSON, from its
// first BinaryHeaderSize bytes: 16 KiB to 4 MiB. Check needs all bytes up to that
// size. The bytes may come from anyone.
func HeaderSize(first []byte) (int, error) {
	if len(first) < BinaryHeaderSize {
		return 0, errNotLUKS2
	}
	switch string(first[layout.OffMagic:layout.OffVersion]) {
	case layout.PrimaryMagic:
	case layout.SecondaryMagic:
		return 0, errSecondary
	default:
		return 0, errNotLUKS2
	}
	switch binary.BigEndian.Uint16(first[layout.OffVersion:]) {
	case 1:
		return 0, errLUKS1
	case 2:
	default:
		return 0, errNotLUKS2
	}
	size := binary.BigEndian.Uint64(first[layout.OffSize:])
	if size < layout.MinSize || size > layout.MaxSize || size&(size-1) != 0 {
		return 0, &FieldError{"header: size", fmt.Sprintf("%d is not a power of two from %d to %d", size, layout.MinSize, layout.MaxSize), sealAgain}
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
	if off := binary.BigEndian.Uint64(header[layout.OffOffset:]); off != 0 {
		return "", nil, &FieldError{"header: offset", fmt.Sprintf("%d is not 0", off), sealAgain}
	}
	if !paddedWith(header[layout.OffAlgorithm:layout.OffSalt], layout.ChecksumName) {
		return "", nil, &FieldError{"header: checksum algorithm", "is not " + layout.ChecksumName, sealAgain}
	}
	if !zero(header[layout.OffPadding:layout.OffChecksum]) || !zero(header[layout.OffChecksum+sha256.Size:BinaryHeaderSize]) {
		return "", nil, &FieldError{"header: padding", "is not zero", sealAgain}
	}
	sum := layout.Checksum(header)
	if !bytes.Equal(sum[:], header[layout.OffChecksum:layout.OffChecksum+sha256.Size]) {
		return "", nil, errChecksum
	}
	text, _, _ = bytes.Cut(header[layout.OffUUID:layout.OffSubsystem], []byte{0})
	uuid = string(text)
	if _, err := efi.Parse(uuid); err != nil || !paddedWith(header[layout.OffUUID:layout.OffSubsystem], uuid) {
		return "", nil, &FieldError{"header: UUID", "is not a UUID", sealAgain}
	}
	text, rest, found := layout.Text(header)
	if !found {
		return "", nil, &FieldError{"header: JSON area", "has no NUL at the end", sealAgain}
	}
	if !zero(rest) {
		return "", nil, &FieldError{"header: JSON area", "has bytes after its text", sealAgain}
	}
	return uuid, text, nil
}

// paddedWith reports whether field is text and then only NULs.
func paddedWith(field []byte, text string) bool {
	rest, ok := bytes.CutPrefix(field, []byte(text))
	return ok && zero(rest)
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
