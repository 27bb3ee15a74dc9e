package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"cocoroot/unlock/verity"
)

// errBlock is returned for a block that is not the measured one.
var errBlock = errors.New("a block differs from the root hash")

// Reader reads the data that a root hash covers, and checks each block when it
// is read, so that nothing of it depends on an earlier look. It is for one
// goroutine.
type Reader struct {
	params verity.Params
	r      io.ReaderAt
	starts []uint64     // as verifier's
	kept   []*treeBlock // the last one of each level, the leaves first
}

// treeBlock is a block of the tree that has been checked.
type treeBlock struct {
	number  uint64 // in its level
	digests []byte
}

// NewReader returns a reader of the image in r.
func NewReader(p verity.Params, r io.ReaderAt) *Reader {
	starts := levelStarts(p)
	return &Reader{params: p, r: r, starts: starts, kept: make([]*treeBlock, len(starts))}
}

// ReadAt reads data, which ends at Params.DataSize. A block that is not the
// measured one is an error, and so is what ends before it should (ErrShort).
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	size := int64(r.params.DataSize())
	if off < 0 {
		return 0, errors.New("cannot read before the start")
	}
	for n < len(p) {
		at := off + int64(n)
		if at >= size {
			return n, io.EOF
		}
		block := uint64(at) / verity.BlockSize
		data, err := r.block(0, block)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], data[at%verity.BlockSize:])
	}
	return n, nil
}

// block returns a block that has been checked: of the data for level 0.
func (r *Reader) block(level int, number uint64) ([]byte, error) {
	if level > 0 {
		if kept := r.kept[level-1]; kept != nil && kept.number == number {
			return kept.digests, nil
		}
	}
	digest := r.params.RootHash[:]
	if level < len(r.starts) {
		above, err := r.block(level+1, number/digestsPerBlock)
		if err != nil {
			return nil, err
		}
		at := number % digestsPerBlock * verity.DigestSize
		digest = above[at : at+verity.DigestSize]
	}
	place := number
	if level > 0 {
		place += r.starts[level-1]
	}
	b := make([]byte, verity.BlockSize)
	if err := readBlock(r.r, b, place, r.params); err != nil {
		return nil, err
	}
	if !bytes.Equal(AppendDigests(nil, b, r.params.Salt), digest) {
		return nil, fmt.Errorf("%w: block %d", errBlock, place)
	}
	if level > 0 {
		r.kept[level-1] = &treeBlock{number, b}
	}
	return b, nil
}
