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

// Derive fills key, at most 8160 bytes, with a disk key, and returns the bytes for
// Options.Random: AES-256-CTR from a zero counter on. Both keys are HKDF's with
// SHA-256: the seed is the key material, and the file system's SHA-256 the salt, so
// that two file systems share no key: under one key, equal blocks at one place
// would show.
//
// The seed is as secret as the key of every image that was made with it. Who
// sees two equal images knows that their contents are equal.
func Derive(seed []byte, content [sha256.Size]byte, key []byte) (io.Reader, error) {
	if len(seed) < MinSeed {
		return nil, fmt.Errorf("%w: %d bytes; at least %d random ones are", ErrSeed, len(seed), MinSeed)
	}
	derived, err := hkdf.Key(sha256.New, seed, content[:], keyLabel, len(key))
	if err != nil {
		return nil, fmt.Errorf("cannot derive from the seed: %w", err)
	}
	copy(key, derived)
	clear(derived)
	stream, err := hkdf.Key(sha256.New, seed, content[:], streamLabel, 32)
	if err != nil {
		return nil, fmt.Errorf("cannot derive from the seed: %w", err)
	}
	defer clear(stream)
	block, err := aes.NewCipher(stream)
	if err != nil {
		return nil, err
	}
	return keystream{cipher.NewCTR(block, make([]byte, aes.BlockSize))}, nil
}

// keystream reads a stream cipher's own bytes.
type keystream struct{ cipher.Stream }

func (k keystream) Read(p []byte) (int, error) {
	clear(p)
	k.XORKeyStream(p, p)
	return len(p), nil
}
