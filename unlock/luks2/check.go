package luks2

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"math"
)

// What an unlock may cost. The header names its costs itself, and a wrong
// one ends in an out-of-memory that nothing can catch, or never. The values
// hold what cryptsetup chooses by itself on a large machine.
const (
	DefaultMaxMemoryKiB  = 1 << 20 // 1 GiB, the most that cryptsetup chooses
	DefaultMaxTime       = 64      // passes over that memory; cryptsetup chooses 4 and more
	DefaultMaxCPUs       = 8       // lanes; cryptsetup chooses up to 4
	DefaultMaxIterations = 16e6    // PBKDF2: about 2 s with SHA instructions, cryptsetup's aim

	// minIterations is the least that cryptsetup writes
	// (LUKS_SLOT_ITERATIONS_MIN in its lib/luks2/luks2_keyslot_luks2.c).
	minIterations = 1000
)

// Limits caps the cost of an unlock. A zero field means its default.
type Limits struct {
	MaxMemoryKiB  uint32 // of argon2i and argon2id
	MaxTime       uint32 // passes, of argon2i and argon2id
	MaxCPUs       uint8  // lanes, of argon2i and argon2id
	MaxIterations uint32 // of PBKDF2, in keyslot and digest; at most 2^31-1 counts
}

func (l Limits) withDefaults() Limits {
	return Limits{
		MaxMemoryKiB:  cmp.Or(l.MaxMemoryKiB, DefaultMaxMemoryKiB),
		MaxTime:       cmp.Or(l.MaxTime, DefaultMaxTime),
		MaxCPUs:       cmp.Or(l.MaxCPUs, DefaultMaxCPUs),
		MaxIterations: min(cmp.Or(l.MaxIterations, DefaultMaxIterations), math.MaxInt32),
	}
}

// Info is what an accepted header says. Whoever unlocks the volume compares
// it with what the other reader of the header found.
type Info struct {
	UUID       string
	HeaderSize int    // bytes of binary header and JSON area
	Keyslot    int    // number of the only keyslot, 0 to 31
	KDF        KDF    // of the keyslot
	Segment    int    // number of the only segment, 0 to 31
	Offset     uint64 // bytes from the start of the device to the encrypted data
	Size       uint64 // bytes of encrypted data; "dynamic" is resolved
	SectorSize uint64 // bytes: 512, 1024, 2048 or 4096
	IVTweak    uint64 // always 0
	Encryption string // always Encryption
}

// Check accepts the header of a device of deviceSize bytes, or says why not.
// The header is as long as HeaderSize says: the binary header and the JSON
// area behind it. The bytes may be anybody's; no input makes Check panic or
// use more than a few times the header's size in memory.
//
// Errors are ErrNotLUKS2, ErrLUKS1, ErrChecksum, or a *FieldError.
func Check(header []byte, deviceSize uint64, limits Limits) (Info, error) {
	uuid, text, err := checkBinary(header)
	if err != nil {
		return Info{}, err
	}
	root, err := parseJSON(text)
	if err != nil {
		return Info{}, &FieldError{"header: JSON area", err.Error()}
	}
	info := Info{UUID: uuid, HeaderSize: len(header), Encryption: Encryption}
	c := &checker{}
	top := c.object("", root, "keyslots", "tokens", "segments", "digests", "config")
	top.object("tokens") // no token (section 3.6): whatever is in there is not allowed
	lo, hi := keyslotsArea(top, len(header), deviceSize)
	info.readKeyslot(top, lo, hi, limits.withDefaults())
	info.readSegment(top, hi, deviceSize)
	info.checkDigest(top, limits.withDefaults())
	if c.err != nil {
		return Info{}, c.err
	}
	return info, nil
}

// keyslotsArea checks the config object and returns the area of the device
// that it gives to keyslots (specification, sections 2.3 and 3.5).
func keyslotsArea(top object, headerSize int, deviceSize uint64) (lo, hi uint64) {
	const most = 128 << 20 // LUKS2_MAX_KEYSLOTS_SIZE in cryptsetup's lib/luks2/luks2.h
	o := top.object("config", "json_size", "keyslots_size")
	want := uint64(headerSize) - BinaryHeaderSize
	o.size("json_size", want, want)
	lo = 2 * uint64(headerSize)
	size := o.size("keyslots_size", 0, most)
	if size%4096 != 0 || lo+size > deviceSize {
		o.c.fail(o.at("keyslots_size"), "%d is not a multiple of 4096 inside the device", size)
	}
	return lo, lo + size
}

// readKeyslot checks the only keyslot (section 3.2). Its area lies between
// lo and hi.
func (info *Info) readKeyslot(top object, lo, hi uint64, l Limits) {
	id, path, v := top.only("keyslots")
	o := top.c.object(path, v, "type", "key_size", "af", "area", "kdf", "priority?")
	info.Keyslot = id
	o.text("type", "luks2")
	o.number("key_size", KeySize, KeySize)
	if _, have := o.m["priority"]; have {
		o.number("priority", 1, 2) // 0 means: do not use
	}

	af := o.object("af", "type", "stripes", "hash")
	af.text("type", "luks1")
	af.number("stripes", stripes, stripes)
	af.text("hash", "sha256", "sha512")

	area := o.object("area", "type", "offset", "size", "encryption", "key_size")
	area.text("type", "raw")
	area.text("encryption", Encryption)
	area.number("key_size", KeySize, KeySize)
	offset := area.size("offset", lo, hi)
	area.size("size", stripes*KeySize, hi-offset)
	if offset%4096 != 0 {
		area.c.fail(area.at("offset"), "%d is not a multiple of 4096", offset)
	}
	info.KDF = readKDF(o, l)
}

// readKDF checks the keyslot's kdf object (section 3.2.5). Every
// number is held against its limit before it becomes a narrower type.
func readKDF(keyslot object, l Limits) KDF {
	m, _ := keyslot.m["kdf"].(map[string]any)
	switch m["type"] {
	case kdfArgon2i, kdfArgon2id:
		o := keyslot.object("kdf", "type", "time", "memory", "cpus", "salt")
		o.base64("salt", 16, 64)
		k := KDF{
			Type: o.text("type", kdfArgon2i, kdfArgon2id),
			Time: uint32(o.number("time", 1, uint64(l.MaxTime))),
			CPUs: uint8(o.number("cpus", 1, uint64(l.MaxCPUs))),
		}
		k.MemoryKiB = uint32(o.number("memory", 8*uint64(k.CPUs), uint64(l.MaxMemoryKiB)))
		return k
	case kdfPBKDF2:
		o := keyslot.object("kdf", "type", "hash", "iterations", "salt")
		o.text("hash", "sha256", "sha512")
		o.base64("salt", 16, 64)
		return PBKDF2(uint32(o.number("iterations", minIterations, uint64(l.MaxIterations))))
	}
	keyslot.c.fail(keyslot.at("kdf"), "is not pbkdf2, argon2i or argon2id")
	return KDF{}
}

// readSegment checks the only segment (section 3.3). It begins at or behind
// least, where the keyslots area ends.
func (info *Info) readSegment(top object, least, deviceSize uint64) {
	id, path, v := top.only("segments")
	o := top.c.object(path, v, "type", "offset", "size", "iv_tweak", "encryption", "sector_size")
	o.text("type", "crypt")
	o.text("encryption", Encryption)
	o.size("iv_tweak", 0, 0)
	sector := o.number("sector_size", 512, 4096)
	if sector == 0 || sector&(sector-1) != 0 {
		o.c.fail(o.at("sector_size"), "%d is not 512, 1024, 2048 or 4096", sector)
		return
	}
	offset := o.size("offset", least, deviceSize)
	size := deviceSize - offset
	if o.m["size"] != "dynamic" {
		size = o.size("size", sector, deviceSize-offset)
	}
	if offset%sector != 0 {
		o.c.fail(o.at("offset"), "%d is not a multiple of the sector size", offset)
	}
	if size == 0 || size%sector != 0 {
		o.c.fail(o.at("size"), "%d bytes are not a whole number of sectors", size)
	}
	info.Segment, info.Offset, info.Size, info.SectorSize = id, offset, size, sector
}

// checkDigest checks the only digest (section 3.4). It has to cover the
// keyslot and the segment, and it has to be long enough to tell keys apart:
// one that is empty would match any.
func (info *Info) checkDigest(top object, l Limits) {
	_, path, v := top.only("digests")
	o := top.c.object(path, v, "type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
	o.text("type", "pbkdf2")
	o.refersTo("keyslots", info.Keyslot)
	o.refersTo("segments", info.Segment)
	o.number("iterations", minIterations, uint64(l.MaxIterations))
	o.base64("salt", 16, 64)
	size := sha256.Size
	if o.text("hash", "sha256", "sha512") == "sha512" {
		size = sha512.Size
	}
	// `cryptsetup convert` keeps the digest of LUKS1: the first 20 bytes of
	// PBKDF2, whatever the hash (section 4.7).
	if n := len(o.base64("digest", 0, sha512.Size)); n != size && n != luks1DigestSize {
		o.c.fail(o.at("digest"), "%d bytes are not %d", n, size)
	}
}

const luks1DigestSize = 20

// String names the keyslot's number and costs for a log.
func (info Info) String() string {
	return fmt.Sprintf("LUKS2 %s, keyslot %d (%s), %s with sectors of %d bytes, %d bytes at %d",
		info.UUID, info.Keyslot, info.KDF, info.Encryption, info.SectorSize, info.Size, info.Offset)
}
