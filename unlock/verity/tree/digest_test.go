package tree

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"cocoroot/unlock/verity"
)

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// checkDigests compares with crypto/sha256, and looks at what lies around.
func checkDigests(t *testing.T, data, salt []byte, shift int) {
	t.Helper()
	around := random(7, shift+len(data)+100)
	copy(around[shift:], data)
	before := bytes.Clone(around)
	dst := append(make([]byte, 0, 3+len(data)/verity.BlockSize*verity.DigestSize+5), "abc12345"...)[:3]
	got := appendDigests(dst, around[shift:][:len(data)], salt)
	if want := appendPlain([]byte("abc"), data, salt); !bytes.Equal(got, want) {
		t.Errorf("%d blocks, salt of %d, shifted by %d: not the digests of crypto/sha256", len(data)/verity.BlockSize, len(salt), shift)
	}
	if !bytes.Equal(around, before) {
		t.Errorf("%d blocks, salt of %d: the data changed", len(data)/verity.BlockSize, len(salt))
	}
	if end := cap(dst) - 5; string(dst[:cap(dst)][end:]) != string(make([]byte, 5)) && len(data) > 0 {
		t.Errorf("%d blocks, salt of %d: something was written beside the digests", len(data)/verity.BlockSize, len(salt))
	}
}

// TestDigests has every salt, with odd and even numbers of blocks, at every
// alignment.
func TestDigests(t *testing.T) {
	for salt := range 2*verity.MaxSaltSize + 1 {
		blocks := salt % 6
		checkDigests(t, random(uint64(salt), blocks*verity.BlockSize), random(3, salt), salt%65)
	}
	for _, b := range []byte{0, 0x80, 0xff} { // carries, and what looks like padding
		checkDigests(t, bytes.Repeat([]byte{b}, 3*verity.BlockSize), bytes.Repeat([]byte{b}, 32), 1)
	}
}

var digestSeeds = []struct {
	some, salt    []byte
	blocks, shift uint8
}{
	{[]byte{0}, nil, 1, 0},
	{random(1, 300), random(2, 32), 5, 1},
	{random(3, 64), random(4, 119), 2, 63},
}

// TestFuzzDigestsSeeds checks that the seeds have blocks in pairs, and one that
// is left over.
func TestFuzzDigestsSeeds(t *testing.T) {
	var odd, pairs bool
	for _, s := range digestSeeds {
		odd, pairs = odd || s.blocks%2 == 1, pairs || s.blocks >= 2
	}
	if !odd || !pairs {
		t.Errorf("odd: %v, pairs: %v; want both", odd, pairs)
	}
}

// FuzzDigests makes the data of a few bytes that repeat: a block is long.
func FuzzDigests(f *testing.F) {
	for _, s := range digestSeeds {
		f.Add(s.some, s.salt, s.blocks, s.shift)
	}
	f.Fuzz(func(t *testing.T, some, salt []byte, blocks, shift uint8) {
		if len(some) == 0 {
			return
		}
		n := int(blocks%8) * verity.BlockSize
		checkDigests(t, bytes.Repeat(some, n/len(some)+1)[:n], salt, int(shift))
	})
}

func BenchmarkDigests(b *testing.B) {
	data, salt := random(1, pieceBlocks*verity.BlockSize), random(2, 32)
	for name, f := range map[string]func(dst, data, salt []byte) []byte{"this": appendDigests, "crypto": appendPlain} {
		b.Run(name, func(b *testing.B) {
			var dst []byte
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				dst = f(dst[:0], data, salt)
			}
		})
	}
}
