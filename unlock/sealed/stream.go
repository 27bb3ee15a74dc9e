package sealed

import (
	"context"
	"crypto/aes"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/crypto/xts"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/verity"
)

// An image is one that is being written, from its start to its end.
type image struct {
	dst      io.WriterAt
	cipher   *xts.Cipher
	tree     *verity.Builder
	progress func(done, total int64)
	done     int64 // bytes written so far
	total    int64
}

func newImage(dst io.WriterAt, key []byte, blocks uint64, salt []byte, progress func(done, total int64)) (*image, error) {
	tree, err := verity.NewBuilder(blocks, salt)
	if err != nil {
		return nil, err
	}
	cipher, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt the image: %w", err)
	}
	total := int64(verity.Params{DataBlocks: blocks}.DeviceSize())
	return &image{dst: dst, cipher: cipher, tree: tree, progress: progress, total: total}, nil
}

// write writes header, ciphertext and hash area, and returns what verifies
// them.
func (w *image) write(ctx context.Context, header []byte, src io.Reader, size int64, uuid luks2.UUID) (verity.Params, error) {
	if err := w.append(ctx, header); err != nil {
		return verity.Params{}, err
	}
	if err := w.encrypt(ctx, src, size); err != nil {
		return verity.Params{}, err
	}
	return w.finish(uuid)
}

// append hashes whole blocks of the image and writes them behind the ones
// before.
func (w *image) append(ctx context.Context, data []byte) error {
	if ctx.Err() != nil {
		return fmt.Errorf("sealing was stopped: %w", context.Cause(ctx))
	}
	if _, err := w.tree.Write(data); err != nil {
		return err
	}
	if _, err := w.dst.WriteAt(data, w.done); err != nil {
		return fmt.Errorf("cannot write the image: %w", err)
	}
	w.advance(int64(len(data)))
	return nil
}

func (w *image) advance(n int64) {
	w.done += n
	if w.progress != nil {
		w.progress(w.done, w.total)
	}
}

// encrypt appends the ciphertext of all of src.
func (w *image) encrypt(ctx context.Context, src io.Reader, size int64) error {
	batch := make([]byte, min(batchSize, (size+blockSize-1)/blockSize*blockSize))
	defer clear(batch) // plaintext, where an error comes before the cipher
	for off := int64(0); off < size; off += batchSize {
		n := min(batchSize, size-off)
		if err := readExactly(src, batch[:n], off, size); err != nil {
			return err
		}
		whole := (n + blockSize - 1) / blockSize * blockSize
		clear(batch[n:whole])
		encryptBlocks(w.cipher, batch[:whole], uint64(off/blockSize))
		if err := w.append(ctx, batch[:whole]); err != nil {
			return err
		}
	}
	var more [1]byte
	switch _, err := io.ReadFull(src, more[:]); {
	case err == nil:
		return fmt.Errorf("%w: it goes on after the announced %d bytes", ErrSourceSize, size)
	case err != io.EOF:
		return fmt.Errorf("cannot read the source: %w", err)
	}
	return nil
}

// readExactly fills p with the source's bytes from off on.
func readExactly(src io.Reader, p []byte, off, size int64) error {
	n, err := io.ReadFull(src, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends after %d of the announced %d bytes", ErrSourceSize, off+int64(n), size)
	}
	if err != nil {
		return fmt.Errorf("cannot read the source: %w", err)
	}
	return nil
}

// encryptBlocks encrypts whole blocks in place, on all processors. The first
// one has the number first within the segment.
func encryptBlocks(c *xts.Cipher, data []byte, first uint64) {
	const perBlock = blockSize / 512 // units of the tweak
	blocks := len(data) / blockSize
	share := max(1, (blocks+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for lo := 0; lo < blocks; lo += share {
		hi := min(lo+share, blocks)
		wg.Go(func() {
			for i := lo; i < hi; i++ {
				b := data[i*blockSize : (i+1)*blockSize]
				c.Encrypt(b, b, (first+uint64(i))*perBlock)
			}
		})
	}
	wg.Wait()
}

// finish writes the hash area.
func (w *image) finish(uuid luks2.UUID) (verity.Params, error) {
	tree, err := w.tree.Finish()
	if err != nil {
		return verity.Params{}, err
	}
	if err := tree.WriteHashArea(io.NewOffsetWriter(w.dst, w.done), uuid); err != nil {
		return verity.Params{}, err
	}
	w.advance(w.total - w.done)
	return tree.Params(), nil
}
