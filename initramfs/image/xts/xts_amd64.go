package xts

import (
	"golang.org/x/sys/cpu"

	"cocoroot/unlock/secmem"
)

const (
	roundKeys    = 15                          // of AES-256 (FIPS 197, table 3: 14 rounds)
	scheduleSize = roundKeys * 16              // bytes, in the order of use
	schedules    = KeySize / 32 * scheduleSize // the data's first, then the tweak's
)

// fast reports whether this processor and system can run the assembly.
func fast() bool { return cpu.X86.HasAES && cpu.X86.HasAVX }

func newFast(key []byte) (*Cipher, error) {
	b, err := secmem.New(schedules)
	if err != nil {
		return nil, err
	}
	s := b.Bytes()
	expandKey(&key[0], &s[0])
	expandKey(&key[KeySize/2], &s[scheduleSize])
	return &Cipher{schedules: b}, nil
}

// encrypt is Encrypt on the fast path; the lengths are checked.
func encrypt(s, sector []byte, number uint64) {
	encryptSector(&s[:schedules][0], &sector[0], &sector[0], len(sector)/Granule, number)
}

// expandKey writes the scheduleSize bytes of a 32-byte key's round keys.
//
//go:noescape
func expandKey(key, schedule *byte)

// encryptSector encrypts granules (at least one) times Granule bytes.
//
//go:noescape
func encryptSector(schedules, dst, src *byte, granules int, number uint64)
