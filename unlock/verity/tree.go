package verity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
)

// ErrDataLength is returned when a Builder gets more or fewer blocks than it
// was made for.
var ErrDataLength = errors.New("data is not as long as announced")

// A Builder computes the hash tree over data that it is given once, in order.
// It keeps one digest per block: 1/128 of the data.
type Builder struct {
	params Params
	leaves []byte // packed digests of the data blocks so far
}

// NewBuilder returns a Builder for dataBlocks blocks of BlockSize bytes.
// The salt has at most MaxSaltSize bytes and may be empty.
func NewBuilder(dataBlocks uint64, salt []byte) (*Builder, error) {
	if dataBlocks == 0 || dataBlocks > MaxDataBlocks {
		return nil, fmt.Errorf("cannot build a hash tree over %d blocks: want 1 to %d", dataBlocks, uint64(MaxDataBlocks))
	}
	if len(salt) > MaxSaltSize {
		return nil, fmt.Errorf("cannot build a hash tree with a salt of %d bytes: want at most %d", len(salt), MaxSaltSize)
	}
	return &Builder{params: Params{DataBlocks: dataBlocks, Salt: bytes.Clone(salt)}}, nil
}

// Write hashes the next blocks, on all processors. len(p) must be a multiple
// of BlockSize; nothing of p is kept.
func (b *Builder) Write(p []byte) (int, error) {
	if len(p)%BlockSize != 0 {
		return 0, fmt.Errorf("cannot hash %d bytes: not a multiple of %d", len(p), BlockSize)
	}
	have := uint64(len(b.leaves) / DigestSize)
	if uint64(len(p)/BlockSize) > b.params.DataBlocks-have {
		return 0, fmt.Errorf("%w: more than %d blocks", ErrDataLength, b.params.DataBlocks)
	}
	b.leaves = appendDigests(b.leaves, p, b.params.Salt)
	return len(p), nil
}

// Finish computes the levels above the data. It fails unless exactly the
// announced number of blocks was written. The Builder is of no use afterwards.
func (b *Builder) Finish() (*Tree, error) {
	if have := uint64(len(b.leaves) / DigestSize); have != b.params.DataBlocks {
		return nil, fmt.Errorf("%w: %d blocks of %d", ErrDataLength, have, b.params.DataBlocks)
	}
	t := &Tree{params: b.params}
	level := b.leaves
	b.leaves = nil
	for len(level) > DigestSize {
		// The last block of a level is filled up with zeros.
		if tail := len(level) % BlockSize; tail != 0 {
			level = append(level, make([]byte, BlockSize-tail)...)
		}
		t.levels = append(t.levels, level)
		level = appendDigests(nil, level, b.params.Salt)
	}
	copy(t.params.RootHash[:], level)
	slices.Reverse(t.levels)
	return t, nil
}

// A Tree is a finished hash tree.
type Tree struct {
	params Params
	levels [][]byte // whole blocks, the level next to the root first
}

// Params returns what the kernel needs to verify the data.
func (t *Tree) Params() Params {
	p := t.params
	p.Salt = bytes.Clone(p.Salt)
	return p
}

// WriteHashArea writes what follows the data on the device, from block
// DataBlocks on: the superblock, then the tree in the kernel's order.
// It is (1 + TreeBlocks) * BlockSize bytes long.
func (t *Tree) WriteHashArea(w io.Writer, uuid [16]byte) error {
	if _, err := w.Write(t.params.Superblock(uuid)); err != nil {
		return fmt.Errorf("cannot write the verity superblock: %w", err)
	}
	for _, level := range t.levels {
		if _, err := w.Write(level); err != nil {
			return fmt.Errorf("cannot write the hash tree: %w", err)
		}
	}
	return nil
}

// appendDigests appends the digest of every block in data to dst.
// Hash type 1 is SHA-256 over the salt, then the block.
func appendDigests(dst, data, salt []byte) []byte {
	blocks := len(data) / BlockSize
	start := len(dst)
	dst = slices.Grow(dst, blocks*DigestSize)[:start+blocks*DigestSize]
	out := dst[start:]

	const least = 32 // blocks that are worth a goroutine
	share := max(least, (blocks+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for lo := 0; lo < blocks; lo += share {
		hi := min(lo+share, blocks)
		wg.Go(func() {
			h := sha256.New()
			for i := lo; i < hi; i++ {
				h.Reset()
				h.Write(salt)
				h.Write(data[i*BlockSize : (i+1)*BlockSize])
				h.Sum(out[i*DigestSize : i*DigestSize])
			}
		})
	}
	wg.Wait()
	return dst
}
