// Package xts encrypts disk sectors with AES-256 in XTS mode (IEEE Std
// 1619-2007; NIST SP 800-38E), as dm-crypt does under aes-xts-plain64.
//
// It exists only for speed. XTS needs AES of many independent blocks, and
// the standard library has no such call: its assembly for many blocks serves
// CTR, GCM and CBC decryption. golang.org/x/crypto/xts, which is frozen, calls
// AES once a block, and one block cannot fill a processor that works on
// several. The kernel in xts_amd64.s keeps eight blocks in flight. Where
// the processor lacks AES-NI or AVX, x/crypto/xts does the work; it is also
// what the tests compare with.
//
// On the fast path both key schedules lie in locked memory, and no address
// or branch depends on key or data. On the slow path they lie on the Go heap
// until the collector reuses it, as crypto/aes has it.
//
// XTS hides a sector's content. It does not authenticate it, and it shows
// which 16-byte blocks of a sector changed between two versions under one
// key. Only the owner seals with this package: the kernel decrypts in the
// guest, and cmds/init must not link it.
package xts

import (
	"crypto/aes"
	"fmt"

	"golang.org/x/crypto/xts"

	"cocoroot/unlock/secmem"
)

const (
	// KeySize is the length of a key in bytes: one AES-256 key for the data,
	// then one for the tweak.
	KeySize = 64
	// Granule is what a sector's length in bytes must be a multiple of: the
	// eight AES blocks that are encrypted side by side.
	Granule = 8 * aes.BlockSize
)

// A Cipher encrypts sectors under one key, on any number of goroutines at a
// time. It must be closed, and not be used after that.
type Cipher struct {
	schedules *secmem.Buffer // of the fast path; nil on the slow one
	slow      *xts.Cipher
}

// New returns a cipher with a copy of the key, which stays the caller's.
func New(key []byte) (*Cipher, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("cannot encrypt: an AES-256-XTS key has %d bytes, and this one %d", KeySize, len(key))
	}
	if !fast() {
		return newSlow(key)
	}
	return newFast(key)
}

func newSlow(key []byte) (*Cipher, error) {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt: %w", err)
	}
	return &Cipher{slow: c}, nil
}

// Encrypt encrypts a sector in place. The tweak is the sector's number:
// little-endian, in dm-crypt's units of 512 bytes whatever the sector's length,
// unless iv_large_sectors is set. The sector has a multiple of Granule bytes, up to
// the 16 MiB that IEEE 1619 allows; else the caller is wrong, and Encrypt panics.
func (c *Cipher) Encrypt(sector []byte, number uint64) {
	if len(sector) == 0 || len(sector)%Granule != 0 || len(sector) > 16<<20 {
		panic("xts: not a sector")
	}
	if c.slow != nil {
		c.slow.Encrypt(sector, sector, number)
		return
	}
	encrypt(c.schedules.Bytes(), sector, number)
}

// Close wipes the key schedules of the fast path. It may be called twice.
func (c *Cipher) Close() error { return c.schedules.Close() }
