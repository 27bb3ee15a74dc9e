//go:build !purego

package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"cocoroot/unlock/verity"
)

// fast reports whether this processor can run the assembly. It asks once: a
// hypervisor takes its time to answer.
var fast = sync.OnceValue(hasSHA)

// A state is SHA-256's H0 to H7 in the order in which the instructions take
// them from memory: F, E, B, A, then H, G, D, C.
type state [8]uint32

const chunk = sha256.BlockSize // bytes that SHA-256 takes at a time

// appendFast is appendDigests with the assembly. A message's chunks are the
// whole ones of the salt, hashed once for all blocks; the head, with the rest of
// the salt and the first data; those that lie in the data; and the tail, with
// the last data and the padding (FIPS 180-4, 5.1.1).
func appendFast(dst, data, salt []byte) []byte {
	initial := state{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372} // FIPS 180-4, 5.3.3
	start := [2]state{initial, initial}
	if n := len(salt) / chunk; n > 0 {
		compress(&start, &salt[0], &salt[0], n)
	}
	bits := uint64(len(salt)+verity.BlockSize) * 8
	salt = salt[len(salt)/chunk*chunk:]
	skip := chunk - len(salt) // data in the head
	var head [2][chunk]byte
	var tail [2][2 * chunk]byte
	tails := 1 + (len(salt)+8)/chunk
	for i := range tail {
		copy(head[i][:], salt)
		tail[i][len(salt)] = 0x80 // as much data as salt is left for the tail
		binary.BigEndian.PutUint64(tail[i][tails*chunk-8:], bits)
	}
	for len(data) > 0 {
		pair := min(2, len(data)/verity.BlockSize)
		a, b := data[:verity.BlockSize], data[(pair-1)*verity.BlockSize:pair*verity.BlockSize] // the last one may be on its own
		data = data[pair*verity.BlockSize:]
		states := start
		copy(head[0][len(salt):], a)
		copy(head[1][len(salt):], b)
		compress(&states, &head[0][0], &head[1][0], 1)
		compress(&states, &a[skip], &b[skip], (verity.BlockSize-skip)/chunk)
		copy(tail[0][:], a[verity.BlockSize-len(salt):])
		copy(tail[1][:], b[verity.BlockSize-len(salt):])
		compress(&states, &tail[0][0], &tail[1][0], tails)
		for _, s := range states[:pair] {
			for _, i := range [8]int{3, 2, 7, 6, 1, 0, 5, 4} {
				dst = binary.BigEndian.AppendUint32(dst, s[i])
			}
		}
	}
	return dst
}

// compress takes blocks (at least one) times 64 bytes at a into the first
// state, and as many at b into the second.
//
//go:noescape
func compress(states *[2]state, a, b *byte, blocks int)

// hasSHA reports CPUID leaf 7, EBX bit 29. What has it has SSSE3 as well.
func hasSHA() bool
