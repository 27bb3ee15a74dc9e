// Package tree is the owner's side of dm-verity: it builds a hash tree over the
// data, with the superblock that veritysetup reads, and checks images against a
// root hash where there is no dm-verity. The guest links none of it.
package tree

import (
	"bytes"
	"fmt"
	"io"

	"cocoroot/unlock/verity"
)

// LeafSize is how many bytes of data one block of the tree's lowest level is
// about.
const LeafSize = digestsPerBlock * verity.BlockSize

// A Builder computes the hash tree over data. It keeps 32 bytes for each LeafSize
// of the data.
type Builder struct {
	dst    io.WriterAt
	params verity.Params
	above  []byte // the digests of the leaves; of a single block, its own
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
	leaves := (dataBlocks + digestsPerBlock - 1) / digestsPerBlock
	return &Builder{dst, verity.Params{DataBlocks: dataBlocks, Salt: bytes.Clone(salt)}, make([]byte, leaves*verity.DigestSize)}, nil
}

// Add takes the data below a leaf, LeafSize bytes but for the last one, which
// may be fewer whole blocks, and leaves something else in it: each block's digest
// takes a place that was hashed before. Each leaf has to be added once, in any
// order, and by any number of goroutines at a time.
func (b *Builder) Add(leaf uint64, data []byte) error {
	digests := appendDigests(data[:0], data, b.params.Salt)
	if b.params.DataBlocks == 1 {
		copy(b.above, digests)
		return nil
	}
	levels := b.params.Levels()
	return b.write(1+b.params.TreeBlocks()-levels[0]+leaf, digests, b.above[leaf*verity.DigestSize:])
}

// write writes a block of the tree, filled up with zeros, and puts its digest
// where the level above has it.
func (b *Builder) write(block uint64, digests, above []byte) error {
	digests = append(digests, make([]byte, verity.BlockSize-len(digests))...)
	if _, err := b.dst.WriteAt(digests, int64(block*verity.BlockSize)); err != nil {
		return fmt.Errorf("cannot write the hash tree: %w", err)
	}
	copy(above, appendDigests(nil, digests, b.params.Salt))
	return nil
}

// Finish writes what is left of the tree, and the superblock, and returns
// what the kernel needs to verify the data. The Builder is of no use afterwards.
func (b *Builder) Finish(uuid [16]byte) (verity.Params, error) {
	at := 1 + b.params.TreeBlocks()
	for i, n := range b.params.Levels() {
		at -= n
		if i == 0 {
			continue // the leaves
		}
		below := b.above
		b.above = make([]byte, n*verity.DigestSize)
		for block := range n {
			part := below[block*verity.BlockSize : min((block+1)*verity.BlockSize, uint64(len(below)))]
			if err := b.write(at+block, bytes.Clone(part), b.above[block*verity.DigestSize:]); err != nil {
				return verity.Params{}, err
			}
		}
	}
	copy(b.params.RootHash[:], b.above)
	if _, err := b.dst.WriteAt(Superblock(b.params, uuid), 0); err != nil {
		return verity.Params{}, fmt.Errorf("cannot write the verity superblock: %w", err)
	}
	return b.params, nil
}
