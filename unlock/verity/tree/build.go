// Package tree is the owner's side of dm-verity: it builds a hash tree from the
// data in one pass, with the superblock that veritysetup reads, and checks
// images against a root hash where there is no dm-verity. The guest links none
// of it.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"cocoroot/unlock/verity"
)

// errDataLength is returned when a Builder gets more or fewer blocks than it
// was made for.
var errDataLength = errors.New("data is not as long as announced")

// A Builder computes the hash tree over data in one pass, and writes every
// block of the tree as soon as it is full. It keeps one block per level, so its
// memory does not grow with the data.
type Builder struct {
	dst    io.WriterAt
	params verity.Params
	have   uint64  // blocks of data so far
	levels []level // the leaves first
}

// A level is the one block of it that is being filled.
type level struct {
	block  []byte // packed digests, with room for BlockSize bytes
	offset int64  // where the block goes
}

// NewBuilder returns a Builder for dataBlocks blocks of BlockSize bytes.
// What follows the data on the device, the superblock and then the tree in
// the kernel's order, goes to dst from its offset 0 on: all in all
// (1 + Params.TreeBlocks) * BlockSize bytes.
// The salt has at most MaxSaltSize bytes and may be empty.
func NewBuilder(dst io.WriterAt, dataBlocks uint64, salt []byte) (*Builder, error) {
	if dataBlocks == 0 || dataBlocks > verity.MaxDataBlocks {
		return nil, fmt.Errorf("cannot build a hash tree over %d blocks: want 1 to %d", dataBlocks, uint64(verity.MaxDataBlocks))
	}
	if len(salt) > verity.MaxSaltSize {
		return nil, fmt.Errorf("cannot build a hash tree with a salt of %d bytes: want at most %d", len(salt), verity.MaxSaltSize)
	}
	b := &Builder{dst: dst, params: verity.Params{DataBlocks: dataBlocks, Salt: bytes.Clone(salt)}}
	end := 1 + b.params.TreeBlocks() // the leaves come last on disk
	for _, n := range b.params.Levels() {
		end -= n
		b.levels = append(b.levels, level{block: make([]byte, 0, verity.BlockSize), offset: int64(end * verity.BlockSize)})
	}
	return b, nil
}

// Append takes the next blocks' digests, as AppendDigests makes them with the
// Builder's salt.
func (b *Builder) Append(digests []byte) error {
	n := uint64(len(digests) / verity.DigestSize)
	if n > b.params.DataBlocks-b.have {
		return fmt.Errorf("%w: more than %d blocks", errDataLength, b.params.DataBlocks)
	}
	b.have += n
	return b.add(0, digests)
}

// Finish writes what is left of the tree, and the superblock, and returns
// what the kernel needs to verify the data. It fails unless exactly the
// announced number of blocks was hashed. The Builder is of no use afterwards.
func (b *Builder) Finish(uuid [16]byte) (verity.Params, error) {
	if b.have != b.params.DataBlocks {
		return verity.Params{}, fmt.Errorf("%w: %d blocks of %d", errDataLength, b.have, b.params.DataBlocks)
	}
	for i := range b.levels {
		if len(b.levels[i].block) > 0 {
			if err := b.flush(i); err != nil {
				return verity.Params{}, err
			}
		}
	}
	if _, err := b.dst.WriteAt(Superblock(b.params, uuid), 0); err != nil {
		return verity.Params{}, fmt.Errorf("cannot write the verity superblock: %w", err)
	}
	return b.params, nil
}

// add puts digests into level i. Above the top level there is the root hash.
func (b *Builder) add(i int, digests []byte) error {
	if i == len(b.levels) {
		copy(b.params.RootHash[:], digests)
		return nil
	}
	l := &b.levels[i]
	for len(digests) > 0 {
		n := min(len(digests), cap(l.block)-len(l.block))
		l.block = append(l.block, digests[:n]...)
		digests = digests[n:]
		if len(l.block) == cap(l.block) {
			if err := b.flush(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes the block of level i, filled up with zeros, and puts its
// digest into the level above.
func (b *Builder) flush(i int) error {
	l := &b.levels[i]
	block := l.block[:verity.BlockSize]
	clear(block[len(l.block):])
	if _, err := b.dst.WriteAt(block, l.offset); err != nil {
		return fmt.Errorf("cannot write the hash tree: %w", err)
	}
	l.offset += verity.BlockSize
	l.block = l.block[:0]
	return b.add(i+1, AppendDigests(nil, block, b.params.Salt))
}
