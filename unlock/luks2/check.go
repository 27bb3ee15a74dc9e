package luks2

import (
	"crypto/sha256"
	"crypto/sha512"

	"cocoroot/unlock/luks2/internal/layout"
)

// Limits on the cost of an unlock. The header states its own costs, and a wrong
// one ends in an out-of-memory that nothing can catch, or never ends. Each limit
// leaves room for what cryptsetup chooses by itself on a fast machine. The most
// expensive unlock that they allow took 35 s on one processor of a busy 2-core
// EPYC guest (2 s a GiB and pass, 0.9 s a million of iterations), and a key
// that ends in NUL is tried twice: of the two minutes that the guest's boot
// has after the disk is found, a third is left.
const (
	MaxMemoryKiB  = 1 << 20  // of argon2: 1 GiB, the most that cryptsetup chooses
	MaxKiBPasses  = 16 << 20 // of argon2, time × memory: 16 passes over 1 GiB; cryptsetup aims at 2 s and chooses 4 to 12
	MaxTime       = 4096     // of argon2: a pass over little memory costs more than its memory
	MaxCPUs       = 4        // of argon2: the most that cryptsetup takes
	MaxIterations = 16e6     // of PBKDF2 in the keyslot; cryptsetup aims at 2 s and chooses 3 million with SHA instructions

	// maxDigestIterations bounds the digest, for which cryptsetup aims at
	// 0.125 s (LUKS_MKD_ITERATIONS_MS) and chooses about 200,000.
	maxDigestIterations = 2e6
)

// Limits is what Check has to know about the machine that unlocks.
type Limits struct {
	RAM uint64 // bytes of memory; argon2 gets at most half. 0: not known
}

// Info is what an accepted header says. The code that unlocks the volume
// compares it with what its own reader of the header found.
type Info struct {
	UUID       string
	HeaderSize int    // bytes of binary header and JSON area
	Keyslot    int    // number of the only keyslot, 0 to 31
	KDF        KDF    // of the keyslot
	Segment    int    // number of the only segment, 0 to 31
	Offset     uint64 // bytes from the start of the device to the encrypted data
	Size       uint64 // bytes of encrypted data; "dynamic" is resolved
	SectorSize uint64 // bytes: 512, 1024, 2048 or 4096
	Encryption string // always Encryption
}

// A KDF makes the key of a keyslot from a passphrase.
type KDF struct {
	Type       string // pbkdf2, argon2i or argon2id
	Iterations uint32 // PBKDF2
	Time       uint32 // Argon2: passes over the memory
	MemoryKiB  uint32 // Argon2
	CPUs       uint8  // Argon2: lanes
}

// Check accepts the header of a device of deviceSize bytes, or says why not.
// The header is as long as HeaderSize says: the binary header and the JSON
// area after it. The bytes may come from anyone; no input makes Check panic or
// use more than a few times the header's size in memory.
func Check(header []byte, deviceSize uint64, limits Limits) (Info, error) {
	uuid, text, err := checkBinary(header)
	if err != nil {
		return Info{}, err
	}
	root, err := parseJSON(text)
	if err != nil {
		return Info{}, &FieldError{"header: JSON area", err.Error(), sealAgain}
	}
	info := Info{UUID: uuid, HeaderSize: len(header), Encryption: Encryption}
	c := &checker{next: sealAgain}
	top := c.object("", root, "keyslots", "tokens", "segments", "digests", "config")
	restore := c.advise("remove tokens with cryptsetup token remove")
	top.object("tokens") // no token (section 3.6): whatever is in there is not allowed
	restore()
	lo, hi := keyslotsArea(top, len(header), deviceSize)
	info.readKeyslot(top, lo, hi, limits)
	info.readSegment(top, hi, deviceSize)
	info.checkDigest(top)
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
	restore := top.c.advise("keep one keyslot: remove others with cryptsetup luksKillSlot")
	id, path, v := top.only("keyslots")
	restore()
	o := top.c.object(path, v, "type", "key_size", "af", "area", "kdf", "priority?")
	info.Keyslot = id
	o.text("type", "luks2")
	o.number("key_size", KeySize, KeySize)
	if _, have := o.m["priority"]; have {
		o.number("priority", 1, 2) // 0 means: do not use
	}

	af := o.object("af", "type", "stripes", "hash")
	af.text("type", "luks1")
	af.number("stripes", layout.Stripes, layout.Stripes)
	af.text("hash", "sha256", "sha512")

	area := o.object("area", "type", "offset", "size", "encryption", "key_size")
	area.text("type", "raw")
	area.text("encryption", Encryption)
	area.number("key_size", KeySize, KeySize)
	offset := area.size("offset", lo, hi)
	area.size("size", layout.Stripes*KeySize, hi-offset)
	if offset%4096 != 0 {
		area.c.fail(area.at("offset"), "%d is not a multiple of 4096", offset)
	}
	info.KDF = readKDF(o, l)
}

// cheaper is the advice for a KDF that costs too much.
const cheaper = "give the keyslot another cost with cryptsetup luksConvertKey (--pbkdf argon2id --pbkdf-memory KIB --pbkdf-force-iterations N, or --pbkdf pbkdf2 for a random key), or seal the image again"

// readKDF checks the keyslot's kdf object (section 3.2.5). Every
// number is checked against its limit before it becomes a narrower type.
func readKDF(keyslot object, l Limits) KDF {
	defer keyslot.c.advise(cheaper)()
	m, _ := keyslot.m["kdf"].(map[string]any)
	switch m["type"] {
	case layout.Argon2i, layout.Argon2id:
		o := keyslot.object("kdf", "type", "time", "memory", "cpus", "salt")
		o.base64("salt", 16, 64)
		time := o.number("time", 1, MaxTime)
		cpus := o.number("cpus", 1, MaxCPUs)
		memory := o.number("memory", 8*cpus, MaxMemoryKiB)
		if most := l.RAM / 2 >> 10; l.RAM != 0 && memory > most {
			o.c.next = "give the guest more memory, or " + cheaper
			o.c.fail(o.at("memory"), "%d KiB are more than half of this machine's memory, %d KiB", memory, most)
		}
		if time*memory > MaxKiBPasses {
			o.c.fail(o.at("time"), "%d passes over %d KiB take too long: %d are the most", time, memory, MaxKiBPasses/memory)
		}
		if o.c.err != nil {
			return KDF{}
		}
		return KDF{Type: o.text("type", layout.Argon2i, layout.Argon2id), Time: uint32(time), MemoryKiB: uint32(memory), CPUs: uint8(cpus)}
	case layout.PBKDF2:
		o := keyslot.object("kdf", "type", "hash", "iterations", "salt")
		o.text("hash", "sha256", "sha512")
		o.base64("salt", 16, 64)
		return KDF{Type: layout.PBKDF2, Iterations: uint32(o.number("iterations", layout.MinIterations, MaxIterations))}
	}
	keyslot.c.fail(keyslot.at("kdf"), "is not pbkdf2, argon2i or argon2id")
	return KDF{}
}

// readSegment checks the only segment (section 3.3). It begins at or after
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
	restore := o.c.advise("the data must come after the header and the keyslots: detached headers are not supported")
	offset := o.size("offset", least, deviceSize)
	restore()
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
// keyslot and the segment, and it has to be as long as its hash: the library
// that unlocks compares no more bytes than the digest has, so that an empty
// one matches any key. `cryptsetup convert` keeps the 20 bytes of LUKS1
// whatever the hash is (section 4.7).
func (info *Info) checkDigest(top object) {
	_, path, v := top.only("digests")
	o := top.c.object(path, v, "type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
	o.text("type", "pbkdf2")
	o.refersTo("keyslots", info.Keyslot)
	o.refersTo("segments", info.Segment)
	o.number("iterations", layout.MinIterations, maxDigestIterations)
	o.base64("salt", 16, 64)
	size := sha256.Size
	if o.text("hash", "sha256", "sha512") == "sha512" {
		size = sha512.Size
	}
	defer o.c.advise("an image that was converted from LUKS1 gets a full digest from cryptsetup reencrypt")()
	if n := len(o.base64("digest", 0, sha512.Size)); n != size {
		o.c.fail(o.at("digest"), "%d bytes are not the %d of its hash", n, size)
	}
}
