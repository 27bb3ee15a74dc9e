package format

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
)

// split spreads key over dst, layout.Stripes times as long, so that the loss of any
// part of dst loses the key. All stripes but the last are read from random;
// the last makes the chain of hashes over all of them end in the key
// (LUKS On-Disk Format Specification 1.2.3, section 2.4).
func split(dst, key []byte, random io.Reader) error {
	last := len(dst) - len(key)
	if _, err := io.ReadFull(random, dst[:last]); err != nil {
		return fmt.Errorf("cannot make anti-forensic stripes: %w", err)
	}
	chain(dst[last:], dst[:last])
	subtle.XORBytes(dst[last:], dst[last:], key)
	return nil
}

// merge undoes split.
func merge(key, area []byte) {
	last := len(area) - len(key)
	chain(key, area[:last])
	subtle.XORBytes(key, key, area[last:])
}

// chain makes the chain of hashes over stripes that are as long as state.
func chain(state, stripes []byte) {
	clear(state)
	for i := 0; i < len(stripes); i += len(state) {
		subtle.XORBytes(state, state, stripes[i:i+len(state)])
		diffuse(state)
	}
}

// diffuse replaces every 32 bytes of b with the SHA-256 of their number, as
// 32 bits big-endian, and themselves. The length of b is a multiple of 32.
func diffuse(b []byte) {
	var in [4 + sha256.Size]byte
	defer clear(in[:])
	for i := 0; i*sha256.Size < len(b); i++ {
		part := b[i*sha256.Size : (i+1)*sha256.Size]
		binary.BigEndian.PutUint32(in[:], uint32(i))
		copy(in[4:], part)
		sum := sha256.Sum256(in[:])
		copy(part, sum[:])
		clear(sum[:])
	}
}
