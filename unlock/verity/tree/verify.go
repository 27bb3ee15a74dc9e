package tree

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"cocoroot/unlock/verity"
)

// Verdict is what Verify found.
type Verdict struct {
	First *Bad   // the first bad block by its place on the device, nil for none
	Bad   uint64 // number of bad blocks
	// Unchecked is the number of data blocks below a bad block of the tree:
	// there is no digest to check them against.
	Unchecked uint64
}

// Verify reads all that the root hash covers, data and tree, and checks every
// block on all cores. A worker keeps one tree block a level and 32 data blocks,
// whatever the size. The superblock is not covered, and not read.
//
// The host controls what r returns. An error is one of reading, ErrShort or
// ctx's; what differs from the root hash is in the Verdict. It speaks of the
// bytes that were read: it knows nothing of those that are there later.
// A progress that is not nil is told the bytes of data given out to check.
func Verify(ctx context.Context, p verity.Params, r io.ReaderAt, progress func(done int64)) (Verdict, error) {
	v := &verifier{params: p, progress: progress}
	workers, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error { return v.work(ctx, NewReader(p, r)) })
	}
	if err := workers.Wait(); err != nil {
		return Verdict{}, err
	}
	return v.verdict, nil
}

type verifier struct {
	params   verity.Params
	progress func(int64)

	mu      sync.Mutex
	next    uint64 // the first data block that no worker has taken
	verdict Verdict
}

// take returns the next data block to check, the first one of its leaf.
func (v *verifier) take() (first uint64, more bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first, more = v.next, v.next < v.params.DataBlocks
	v.next += digestsPerBlock
	if more && v.progress != nil {
		v.progress(int64(first * verity.BlockSize))
	}
	return first, more
}

// pieceBlocks is how many blocks a worker reads at a time: few enough to be
// hashed out of the processor's cache.
const pieceBlocks = 32

func (v *verifier) work(ctx context.Context, r *Reader) error {
	piece := make([]byte, pieceBlocks*verity.BlockSize)
	var found []byte
	for first, more := v.take(); more; first, more = v.take() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		want, err := r.digests(0, first)
		if bad, ok := errors.AsType[Bad](err); ok {
			v.bad(bad, first)
			continue
		}
		if err != nil {
			return err
		}
		for end := min(first+digestsPerBlock, v.params.DataBlocks); first < end; {
			n := min(pieceBlocks, end-first)
			data := piece[:n*verity.BlockSize]
			if err := r.read(data, first); err != nil {
				return err
			}
			found = appendDigests(found[:0], data, v.params.Salt)
			for at := uint64(0); at < n*verity.DigestSize; at += verity.DigestSize {
				if !bytes.Equal(found[at:at+verity.DigestSize], want[at:at+verity.DigestSize]) {
					v.bad(r.bad(0, first), first)
				}
				first++
			}
			want = want[n*verity.DigestSize:]
		}
	}
	return nil
}

// bad notes a block that differs, met on the way to the data block first. One of
// the tree is met below each of its leaves, and counted at the first of them.
func (v *verifier) bad(b Bad, first uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verdict.First == nil || b.Offset < v.verdict.First.Offset {
		v.verdict.First = &b
	}
	if b.First != first {
		return
	}
	v.verdict.Bad++
	if b.Level > 0 {
		v.verdict.Unchecked += b.Count
	}
}
