// Package format is the owner's side of LUKS2: it writes the header region of a
// new image, and opens and reads an image where there is no dm-crypt. What it
// writes, luks2.Check accepts. The guest links none of it.
//
// The format is that of the LUKS2 On-Disk Format Specification, version 1.1.4
// (docs/on-disk-format-luks2.pdf of cryptsetup), called "the specification"
// below.
//
// Nothing here protects a weak passphrase. Key schedules and hash states of the
// standard library hold derived keys on the Go heap until it is collected and
// reused.
package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"golang.org/x/crypto/pbkdf2"
	"golang.org/x/crypto/xts"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

var (
	// ErrKDF is returned for a KDF that the guest refuses: it is unknown, or
	// costs too much.
	ErrKDF = errors.New("not a usable KDF: want PBKDF2 or Argon2id within the limits of an unlock")
	// errKey is returned for a volume key or a passphrase that cannot be one.
	errKey = errors.New("not a usable key")
)

// The region that New makes, in bytes (specification, section 2): two headers
// of binary part and JSON area, then the keyslots area.
const (
	// RegionSize is the size of the region, and the offset of the encrypted
	// data after it.
	RegionSize = 1 << 20
	// HeaderSize is the size of each copy of the header, one after the other.
	HeaderSize = layout.MinSize
	// SectorSize is the size of the encryption sectors of the segment.
	SectorSize = 4096

	offSequence   = 16 // in the binary header: u64, grows with every update
	keyslotOffset = 2 * HeaderSize
	keyslotSize   = (layout.Stripes*luks2.KeySize + 4095) / 4096 * 4096
	areaSector    = 512 // keyslots are encrypted in sectors of this size, which count from 0
	saltSize      = 32
)

// Options says what New puts into a header.
type Options struct {
	Passphrase []byte    // opens the only keyslot; not empty
	VolumeKey  []byte    // KeySize bytes, from NewVolumeKey
	KDF        luks2.KDF // of the keyslot
	UUID       uuid.UUID
	Random     io.Reader // a cryptographic source; crypto/rand.Reader except in tests
}

// NewVolumeKey fills key, KeySize bytes of the caller's locked memory, from
// random.
func NewVolumeKey(key []byte, random io.Reader) error {
	_, err := io.ReadFull(random, key)
	if err == nil {
		err = checkVolumeKey(key)
	}
	if err != nil {
		clear(key)
		return fmt.Errorf("cannot make a volume key: %w", err)
	}
	return nil
}

// New returns the header region of a new LUKS2 device, RegionSize bytes:
// both headers, one keyslot, one segment of 4096-byte sectors from the
// region's end to the device's end, one digest.
//
// The same options and the same random bytes give the same header. They are
// read in this order: salts of the first and second header (64 each), salts of
// keyslot and digest (32 each), 3999 stripes of KeySize bytes. Passphrase and VolumeKey stay the caller's.
func New(o Options) ([]byte, error) {
	if len(o.Passphrase) == 0 {
		return nil, fmt.Errorf("%w: the passphrase is empty", errKey)
	}
	if err := checkVolumeKey(o.VolumeKey); err != nil {
		return nil, err
	}
	var salts [2*64 + 2*saltSize]byte
	if _, err := io.ReadFull(o.Random, salts[:]); err != nil {
		return nil, fmt.Errorf("cannot make salts: %w", err)
	}
	first, second := salts[:64], salts[64:128]
	kdfSalt, digestSalt := salts[128:128+saltSize], salts[128+saltSize:]

	region := make([]byte, RegionSize)
	text := o.json(kdfSalt, digestSalt)
	fillHeader(region[:HeaderSize], layout.PrimaryMagic, 0, first, o.UUID, text)
	fillHeader(region[HeaderSize:keyslotOffset], layout.SecondaryMagic, HeaderSize, second, o.UUID, text)
	// Only the costs in it are not ours: the guest may refuse them.
	if _, err := luks2.Check(region[:HeaderSize], RegionSize+SectorSize, luks2.Limits{}); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKDF, Describe(o.KDF), err)
	}
	area := region[keyslotOffset : keyslotOffset+layout.Stripes*luks2.KeySize]
	err := split(area, o.VolumeKey, o.Random)
	if err == nil {
		err = crypt(area, o.KDF, o.Passphrase, kdfSalt, (*xts.Cipher).Encrypt)
	}
	if err != nil {
		clear(region)
		return nil, err
	}
	return region, nil
}

// checkVolumeKey refuses what is not a volume key. XTS is not secure with two equal
// halves, and the kernel refuses them.
func checkVolumeKey(key []byte) error {
	if len(key) != luks2.KeySize {
		return fmt.Errorf("%w: a volume key of %d bytes, not %d", errKey, len(key), luks2.KeySize)
	}
	if bytes.Equal(key[:luks2.KeySize/2], key[luks2.KeySize/2:]) {
		return fmt.Errorf("%w: both halves of the volume key are the same", errKey)
	}
	return nil
}

// json returns the metadata in cryptsetup's order of keys (section 3).
func (o Options) json(kdfSalt, digestSalt []byte) string {
	b64 := base64.StdEncoding.EncodeToString
	digest := pbkdf2.Key(o.VolumeKey, digestSalt, layout.MinIterations, sha256.Size, sha256.New)
	return fmt.Sprintf(`{"keyslots":{"0":{"type":"luks2","key_size":%d,`+
		`"af":{"type":"luks1","stripes":%d,"hash":"sha256"},`+
		`"area":{"type":"raw","offset":"%d","size":"%d","encryption":%q,"key_size":%d},`+
		`"kdf":%s}},"tokens":{},`+
		`"segments":{"0":{"type":"crypt","offset":"%d","size":"dynamic","iv_tweak":"0","encryption":%q,"sector_size":%d}},`+
		`"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":%d,"salt":%q,"digest":%q}},`+
		`"config":{"json_size":"%d","keyslots_size":"%d"}}`,
		luks2.KeySize, layout.Stripes, keyslotOffset, keyslotSize, luks2.Encryption, luks2.KeySize, kdfJSON(o.KDF, b64(kdfSalt)),
		RegionSize, luks2.Encryption, SectorSize, layout.MinIterations, b64(digestSalt), b64(digest),
		HeaderSize-luks2.BinaryHeaderSize, RegionSize-keyslotOffset)
}

func fillHeader(h []byte, magic string, offset uint64, salt []byte, id uuid.UUID, text string) {
	copy(h[layout.OffMagic:], magic)
	binary.BigEndian.PutUint16(h[layout.OffVersion:], 2)
	binary.BigEndian.PutUint64(h[layout.OffSize:], uint64(len(h)))
	binary.BigEndian.PutUint64(h[offSequence:], 1)
	copy(h[layout.OffAlgorithm:layout.OffSalt], layout.ChecksumName)
	copy(h[layout.OffSalt:layout.OffUUID], salt)
	copy(h[layout.OffUUID:layout.OffSubsystem], id.String())
	binary.BigEndian.PutUint64(h[layout.OffOffset:], offset)
	copy(h[luks2.BinaryHeaderSize:], text)
	sum := layout.Checksum(h)
	copy(h[layout.OffChecksum:], sum[:])
}
