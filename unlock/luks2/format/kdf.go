package format

import (
	"crypto/aes"
	"crypto/sha256"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/pbkdf2"
	"golang.org/x/crypto/xts"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

// GeneratedKeyIterations is enough PBKDF2 for a passphrase of 256 random
// bits, which needs no stretching.
const GeneratedKeyIterations = 1000

// PBKDF2 returns PBKDF2-HMAC-SHA256. Without the cost of memory it is for
// passphrases that nobody can guess: use GeneratedKeyIterations for those.
func PBKDF2(iterations uint32) luks2.KDF {
	return luks2.KDF{Type: layout.PBKDF2, Iterations: iterations}
}

// Argon2id returns Argon2id, for passphrases that people choose.
func Argon2id(time, memoryKiB uint32, cpus uint8) luks2.KDF {
	return luks2.KDF{Type: layout.Argon2id, Time: time, MemoryKiB: memoryKiB, CPUs: cpus}
}

// Describe returns type and costs of a KDF for people.
func Describe(k luks2.KDF) string {
	if k.Type == layout.PBKDF2 {
		return fmt.Sprintf("pbkdf2 with %d iterations", k.Iterations)
	}
	return fmt.Sprintf("%s with %d passes, %d KiB, %d lanes", k.Type, k.Time, k.MemoryKiB, k.CPUs)
}

// derive returns luks2.KeySize bytes, which the caller clears.
//
// The PBKDF2 of golang.org/x/crypto takes the passphrase as bytes; that of
// the standard library wants a string, and strings cannot be wiped.
func derive(k luks2.KDF, passphrase, salt []byte) []byte {
	switch k.Type {
	case layout.PBKDF2:
		return pbkdf2.Key(passphrase, salt, int(k.Iterations), luks2.KeySize, sha256.New)
	case layout.Argon2i:
		return argon2.Key(passphrase, salt, k.Time, k.MemoryKiB, k.CPUs, luks2.KeySize)
	}
	return argon2.IDKey(passphrase, salt, k.Time, k.MemoryKiB, k.CPUs, luks2.KeySize)
}

// crypt encrypts or decrypts the area of a keyslot (section 3.2.3).
func crypt(area []byte, k luks2.KDF, passphrase, salt []byte, op func(c *xts.Cipher, dst, src []byte, sector uint64)) error {
	key := derive(k, passphrase, salt)
	defer clear(key)
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return fmt.Errorf("cannot use the key of the keyslot: %w", err)
	}
	for i := 0; i*areaSector < len(area); i++ {
		sector := area[i*areaSector : (i+1)*areaSector]
		op(c, sector, sector, uint64(i))
	}
	return nil
}

// kdfJSON returns the kdf object as cryptsetup writes it.
func kdfJSON(k luks2.KDF, salt string) string {
	if k.Type == layout.PBKDF2 {
		return fmt.Sprintf(`{"type":"pbkdf2","hash":"sha256","iterations":%d,"salt":%q}`, k.Iterations, salt)
	}
	return fmt.Sprintf(`{"type":%q,"time":%d,"memory":%d,"cpus":%d,"salt":%q}`, k.Type, k.Time, k.MemoryKiB, k.CPUs, salt)
}
