package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"cocoroot/unlock/verity"
)

// digestsPerBlock is the number of digests in a block of the tree.
const digestsPerBlock = verity.BlockSize / verity.DigestSize

// ErrShort is returned for a device that ends before the last block that was
// measured.
var ErrShort = errors.New("it is shorter than what was measured")

// Bad is a block that differs from what the root hash says. It is an error.
type Bad struct {
	Offset int64  // byte on the device
	Level  int    // 0 for data, 1 for the tree's leaves, and upwards
	Block  uint64 // number in its level, from 0
	First  uint64 // first data block that depends on it
	Count  uint64 // number of data blocks that depend on it
}

// Error implements error.
func (b Bad) Error() string {
	return fmt.Sprintf("the block at byte %d differs from the root hash", b.Offset)
}

func (r *Reader) bad(level int, number uint64) Bad {
	span := uint64(1) << (7 * level) // 128 blocks below each
	first := number * span
	return Bad{int64((r.starts[level] + number) * verity.BlockSize), level, number, first, min(span, r.params.DataBlocks-first)}
}

// Reader reads the data that a root hash covers, and checks each block when it
// is read, so that nothing of it depends on an earlier look. It is for one
// goroutine.
type Reader struct {
	params verity.Params
	r      io.ReaderAt
	starts []uint64    // the first block on the device of each level, the data first
	kept   []treeBlock // the last block of each level that was good
}

// treeBlock is a block of the tree that has been checked.
type treeBlock struct {
	number  uint64 // in its level
	digests []byte // nil: there is none yet
}

// NewReader returns a reader of the image in r.
func NewReader(p verity.Params, r io.ReaderAt) *Reader {
	starts := []uint64{0}
	start := p.HashStart() + p.TreeBlocks()
	for _, n := range p.Levels() {
		start -= n
		starts = append(starts, start)
	}
	return &Reader{params: p, r: r, starts: starts, kept: make([]treeBlock, len(starts))}
}

// ReadAt reads data, which ends at Params.DataSize. A block that is not the
// measured one is an error, and so is what ends before it should (ErrShort).
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("cannot read before the start")
	}
	for n < len(p) {
		at := off + int64(n)
		if at >= int64(r.params.DataSize()) {
			return n, io.EOF
		}
		data, err := r.block(0, uint64(at)/verity.BlockSize)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], data[at%verity.BlockSize:])
	}
	return n, nil
}

func (r *Reader) block(level int, number uint64) ([]byte, error) {
	if kept := r.kept[level]; kept.digests != nil && kept.number == number {
		return kept.digests, nil
	}
	want, err := r.digests(level, number)
	if err != nil {
		return nil, err
	}
	b := make([]byte, verity.BlockSize)
	if err := r.read(b, r.starts[level]+number); err != nil {
		return nil, err
	}
	if !bytes.Equal(appendDigests(nil, b, r.params.Salt), want[:verity.DigestSize]) {
		return nil, r.bad(level, number)
	}
	if level > 0 {
		r.kept[level] = treeBlock{number, b}
	}
	return b, nil
}

// digests returns the digests that the block and those after it must have, as
// far as they lie in one block of the tree.
func (r *Reader) digests(level int, number uint64) ([]byte, error) {
	if level == len(r.starts)-1 {
		return r.params.RootHash[:], nil
	}
	above, err := r.block(level+1, number/digestsPerBlock)
	if err != nil {
		return nil, err
	}
	return above[number%digestsPerBlock*verity.DigestSize:], nil
}

func (r *Reader) read(b []byte, block uint64) error {
	off := int64(block * verity.BlockSize)
	n, err := r.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("%w: it ends at byte %d of %d", ErrShort, off+int64(n), r.params.DeviceSize())
	}
	return fmt.Errorf("cannot read block %d: %w", block, err)
}
