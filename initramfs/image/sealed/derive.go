package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// MinSeed is the shortest seed in bytes.
const MinSeed = 32

// ErrSeed is returned for a seed that is too short to be one.
var ErrSeed = errors.New("not a seed")

// The info of HKDF (RFC 5869) for what is derived from a seed. Another label
// makes another image.
const (
	keyLabel    = "cocoroot seal v1: disk key"
	streamLabel = "cocoroot seal v1: random stream"
)

// Derived is what a seed and a file system make of one another, in the place
// of randomness. The PRK is HKDF-Extract with SHA-256, the file system's
// SHA-256 as the salt and the seed as the key material, so that two file
// systems share no key: under one key, equal blocks at one place would show.
//
// The seed is as secret as the key of every image that was made with it. Who
// sees two equal images knows that their contents are equal.
type Derived struct{ prk []byte }

// Derive returns what seed and the file system with the hash content make of
// one another.
func Derive(seed []byte, content [sha256.Size]byte) (Derived, error) {
	if len(seed) < MinSeed {
		return Derived{}, fmt.Errorf("%w: %d bytes; at least %d random ones are", ErrSeed, len(seed), MinSeed)
	}
	prk, err := hkdf.Extract(sha256.New, seed, content[:])
	if err != nil {
		return Derived{}, fmt.Errorf("cannot derive from the seed: %w", err)
	}
	return Derived{prk}, nil
}

// Key fills key, at most 8160 bytes, with a disk key.
func (d Derived) Key(key []byte) error { return d.expand(keyLabel, key) }

// Stream returns the bytes for Options.Random: AES-256-CTR with a key from the
// seed and a zero counter.
func (d Derived) Stream() (io.Reader, error) {
	key := make([]byte, 32)
	defer clear(key)
	if err := d.expand(streamLabel, key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return keystream{cipher.NewCTR(block, make([]byte, aes.BlockSize))}, nil
}

func (d Derived) expand(label string, out []byte) error {
	key, err := hkdf.Expand(sha256.New, d.prk, label, len(out))
	if err != nil {
		return fmt.Errorf("cannot derive from the seed: %w", err)
	}
	copy(out, key)
	clear(key)
	return nil
}

// Wipe clears what was derived.
func (d Derived) Wipe() { clear(d.prk) }

// keystream reads a stream cipher's own bytes.
type keystream struct{ cipher.Stream }

func (k keystream) Read(p []byte) (int, error) {
	clear(p)
	k.XORKeyStream(p, p)
	return len(p), nil
}
