package luks2

import (
	"crypto/sha256"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/pbkdf2"
)

// The kdf types (specification, section 3.2.5).
const (
	kdfPBKDF2   = "pbkdf2"
	kdfArgon2i  = "argon2i" // read only
	kdfArgon2id = "argon2id"
)

// A KDF makes the key of a keyslot from a passphrase. Make one with PBKDF2 or
// Argon2id; the zero value is refused, so that nobody gets a cheap one by
// leaving it out.
type KDF struct {
	Type       string // pbkdf2, argon2i or argon2id
	Iterations uint32 // PBKDF2
	Time       uint32 // Argon2: passes over the memory
	MemoryKiB  uint32 // Argon2
	CPUs       uint8  // Argon2: lanes
}

// GeneratedKeyIterations is enough PBKDF2 for a passphrase of 256 random
// bits, which needs no stretching.
const GeneratedKeyIterations = 1000

// PBKDF2 returns PBKDF2-HMAC-SHA256. Without the cost of memory it is for
// passphrases that nobody can guess: use GeneratedKeyIterations for those.
func PBKDF2(iterations uint32) KDF { return KDF{Type: kdfPBKDF2, Iterations: iterations} }

// Argon2id returns Argon2id, for passphrases that people choose.
func Argon2id(time, memoryKiB uint32, cpus uint8) KDF {
	return KDF{Type: kdfArgon2id, Time: time, MemoryKiB: memoryKiB, CPUs: cpus}
}

// String returns type and costs.
func (k KDF) String() string {
	if k.Type == kdfPBKDF2 {
		return fmt.Sprintf("pbkdf2 with %d iterations", k.Iterations)
	}
	return fmt.Sprintf("%s with %d passes, %d KiB, %d lanes", k.Type, k.Time, k.MemoryKiB, k.CPUs)
}

// validate holds k against the limits, as the guest will.
func (k KDF) validate() error {
	var ok bool
	switch k.Type {
	case kdfPBKDF2:
		ok = k.Iterations >= minIterations && k.Iterations <= MaxIterations && k == PBKDF2(k.Iterations)
	case kdfArgon2id:
		ok = k.Time >= 1 && k.Time <= MaxTime && k.CPUs >= 1 && k.CPUs <= MaxCPUs &&
			k.MemoryKiB >= 8*uint32(k.CPUs) && k.MemoryKiB <= MaxMemoryKiB &&
			uint64(k.Time)*uint64(k.MemoryKiB) <= MaxKiBPasses && k.Iterations == 0
	}
	if !ok {
		return fmt.Errorf("%w: %s", ErrKDF, k)
	}
	return nil
}

// derive returns KeySize bytes, which the caller clears.
//
// The PBKDF2 of golang.org/x/crypto takes the passphrase as bytes; that of
// the standard library wants a string, and strings cannot be wiped.
func (k KDF) derive(passphrase, salt []byte) []byte {
	if k.Type == kdfPBKDF2 {
		return pbkdf2.Key(passphrase, salt, int(k.Iterations), KeySize, sha256.New)
	}
	return argon2.IDKey(passphrase, salt, k.Time, k.MemoryKiB, k.CPUs, KeySize)
}

// json returns the kdf object as cryptsetup writes it.
func (k KDF) json(salt string) string {
	if k.Type == kdfPBKDF2 {
		return fmt.Sprintf(`{"type":"pbkdf2","hash":"sha256","iterations":%d,"salt":%q}`, k.Iterations, salt)
	}
	return fmt.Sprintf(`{"type":%q,"time":%d,"memory":%d,"cpus":%d,"salt":%q}`, k.Type, k.Time, k.MemoryKiB, k.CPUs, salt)
}
