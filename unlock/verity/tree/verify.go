package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"cocoroot/unlock/verity"
)

// digestsPerBlock is the number of digests in a block of the tree.
const digestsPerBlock = verity.BlockSize / verity.DigestSize

// ErrShort is returned for a device that ends before the last block that was
// measured.
var ErrShort = errors.New("it is shorter than what was measured")

// Bad is a block that differs from what the root hash says.
type Bad struct {
	Offset int64  // byte on the device
	Level  int    // 0 for data, 1 for the tree's leaves, and upwards
	Block  uint64 // number in its level, from 0
	First  uint64 // first data block that depends on it
	Count  uint64 // number of data blocks that depend on it
}

// Verdict is what Verify found.
type Verdict struct {
	First *Bad   // the first bad block by its place on the device, nil for none
	Bad   uint64 // number of bad blocks
	// Unchecked is the number of data blocks below a bad block of the tree:
	// there is no digest to check them against.
	Unchecked uint64
}

// Verify reads all that the root hash covers, data and tree, once, and checks
// every block on all cores. It keeps one tree block a level and 32 data blocks a
// worker, whatever the size. The superblock is not covered, and not read.
//
// The host controls what r returns. An error is one of reading, ErrShort or
// ctx's; what differs from the root hash is in the Verdict. It speaks of the
// bytes that were read: it knows nothing of those that are there later.
// A progress that is not nil is told the bytes of data given out to check.
func Verify(ctx context.Context, p verity.Params, r io.ReaderAt, progress func(done int64)) (Verdict, error) {
	v := &verifier{params: p, r: r, starts: levelStarts(p), progress: progress}
	next, stop := iter.Pull2(v.groups)
	defer stop()
	v.next = next
	workers, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error { return v.work(ctx) })
	}
	if err := workers.Wait(); err != nil {
		return Verdict{}, err
	}
	return v.verdict, nil
}

// levelStarts returns the first block on the device of each level of the tree,
// the leaves first.
func levelStarts(p verity.Params) []uint64 {
	var starts []uint64
	start := p.HashStart() + p.TreeBlocks()
	for _, n := range p.Levels() {
		start -= n
		starts = append(starts, start)
	}
	return starts
}

// A group is consecutive data blocks with the digests they must have.
type group struct {
	first   uint64
	digests []byte
}

type verifier struct {
	params   verity.Params
	r        io.ReaderAt
	starts   []uint64 // the first block on the device of each level, the leaves first
	progress func(int64)

	taking sync.Mutex                  // one worker at a time looks for the next group,
	next   func() (group, error, bool) // which takes little: the tree is small

	mu      sync.Mutex
	verdict Verdict
}

// groups yields all groups whose digests are good up to the root hash, or an
// error of reading and nothing more.
func (v *verifier) groups(yield func(group, error) bool) {
	v.walk(len(v.starts), 0, v.params.RootHash[:], yield)
}

// walk checks the block of a level and, if it is good, yields what is below it.
// It reports whether to go on.
func (v *verifier) walk(level int, block uint64, digest []byte, yield func(group, error) bool) bool {
	if level == 0 { // one block of data and no tree
		return yield(group{block, digest}, nil)
	}
	b := make([]byte, verity.BlockSize)
	if err := v.read(b, v.starts[level-1]+block); err != nil {
		yield(group{}, err)
		return false
	}
	if !bytes.Equal(AppendDigests(nil, b, v.params.Salt), digest) {
		v.bad(level, block)
		return true
	}
	below := v.params.DataBlocks
	if level > 1 {
		below = v.params.Levels()[level-2]
	}
	first := block * digestsPerBlock
	b = b[:min(digestsPerBlock, below-first)*verity.DigestSize]
	if level == 1 {
		return yield(group{first, b}, nil)
	}
	for i := 0; i*verity.DigestSize < len(b); i++ {
		if !v.walk(level-1, first+uint64(i), b[i*verity.DigestSize:(i+1)*verity.DigestSize], yield) {
			return false
		}
	}
	return true
}

// take returns the next group, an empty one after the last.
func (v *verifier) take(ctx context.Context) (group, error) {
	v.taking.Lock()
	defer v.taking.Unlock()
	if ctx.Err() != nil {
		return group{}, context.Cause(ctx)
	}
	g, err, more := v.next()
	if more && err == nil && v.progress != nil {
		v.progress(int64(g.first * verity.BlockSize))
	}
	return g, err
}

// pieceBlocks is how many blocks a worker reads at a time: few enough to be
// hashed out of the processor's cache.
const pieceBlocks = 32

// work checks groups until there are no more.
func (v *verifier) work(ctx context.Context) error {
	data := make([]byte, pieceBlocks*verity.BlockSize)
	var found []byte
	for {
		g, err := v.take(ctx)
		if err != nil || len(g.digests) == 0 {
			return err
		}
		for len(g.digests) > 0 {
			n := min(pieceBlocks, len(g.digests)/verity.DigestSize)
			if err := v.read(data[:n*verity.BlockSize], g.first); err != nil {
				return err
			}
			found = AppendDigests(found[:0], data[:n*verity.BlockSize], v.params.Salt)
			for i := range n {
				if at := i * verity.DigestSize; !bytes.Equal(found[at:at+verity.DigestSize], g.digests[at:at+verity.DigestSize]) {
					v.bad(0, g.first+uint64(i))
				}
			}
			g = group{g.first + uint64(n), g.digests[n*verity.DigestSize:]}
		}
	}
}

// read fills b from a block of the device on.
func (v *verifier) read(b []byte, block uint64) error { return readBlock(v.r, b, block, v.params) }

func readBlock(r io.ReaderAt, b []byte, block uint64, p verity.Params) error {
	off := int64(block * verity.BlockSize)
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("%w: it ends at byte %d of %d", ErrShort, off+int64(n), p.DeviceSize())
	}
	return fmt.Errorf("cannot read block %d: %w", block, err)
}

// bad notes a block that differs.
func (v *verifier) bad(level int, block uint64) {
	b := Bad{Level: level, Block: block, First: block, Count: 1}
	at := block
	if level > 0 {
		at += v.starts[level-1]
		span := uint64(1) << (7 * level) // 128 blocks below each
		b.First = block * span
		b.Count = min(span, v.params.DataBlocks-b.First)
	}
	b.Offset = int64(at * verity.BlockSize)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.verdict.Bad++
	if level > 0 {
		v.verdict.Unchecked += b.Count
	}
	if v.verdict.First == nil || b.Offset < v.verdict.First.Offset {
		v.verdict.First = &b
	}
}
