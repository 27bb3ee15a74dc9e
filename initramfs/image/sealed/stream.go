package sealed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/image/xts"
	"cocoroot/unlock/verity/tree"
)

// writer is an image that is being written. Its workers each take what lies below
// the next leaf of the hash tree.
type writer struct {
	dst    io.WriterAt
	src    io.ReaderAt
	size   int64 // bytes of src
	header []byte
	cipher *xts.Cipher
	tree   *tree.Builder
	next   atomic.Int64 // the first leaf that no worker has taken

	mu       sync.Mutex // holds what is below
	progress func(done, total int64)
	done     int64 // bytes written so far
	total    int64
}

// write writes header and ciphertext, which end at a byte of the image, and the
// leaves of their tree.
func (w *writer) write(ctx context.Context, end int64) error {
	var conn syscall.RawConn
	if f, ok := w.dst.(syscall.Conn); ok {
		conn, _ = f.SyscallConn()
	}
	// One worker more than there are processors: while one waits for the disk, the
	// others have work.
	workers, ctx := errgroup.WithContext(ctx)
	for range min(int64(runtime.GOMAXPROCS(0)+1), (end+tree.LeafSize-1)/tree.LeafSize) {
		workers.Go(func() error {
			buf := make([]byte, tree.LeafSize)
			defer clear(buf) // plaintext, where an error comes before the cipher
			for {
				leaf := w.next.Add(1) - 1
				off := leaf * tree.LeafSize
				if off >= end {
					return nil
				}
				if ctx.Err() != nil {
					return fmt.Errorf("sealing was stopped: %w", context.Cause(ctx))
				}
				data := buf[:min(tree.LeafSize, end-off)]
				if err := w.fill(data, off); err != nil {
					return err
				}
				if _, err := w.dst.WriteAt(data, off); err != nil {
					return fmt.Errorf("cannot write the image: %w", err)
				}
				if err := w.tree.Add(uint64(leaf), data); err != nil {
					return err
				}
				send(conn, off)
				w.advance(int64(len(data)))
			}
		})
	}
	return workers.Wait()
}

// fill makes whole blocks of the image, from its byte off on.
func (w *writer) fill(data []byte, off int64) error {
	if off < dataOffset {
		copy(data, w.header[off:])
		return nil
	}
	off -= dataOffset
	n := min(int64(len(data)), w.size-off)
	clear(data[n:])
	if read, err := w.src.ReadAt(data[:n], off); int64(read) < n {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it ends after %d of the announced %d bytes", errSourceSize, off+int64(read), w.size)
		}
		return fmt.Errorf("cannot read the source: %w", err)
	}
	for ; len(data) > 0; data = data[blockSize:] {
		w.cipher.Encrypt(data[:blockSize], uint64(off/512))
		off += blockSize
	}
	return nil
}

func (w *writer) advance(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += n
	if w.progress != nil {
		w.progress(w.done, w.total)
	}
}

// window is how many bytes may be on their way to the disk.
const window = 32 << 20

// send sends the pages of a leaf's data to the disk while the next ones are
// computed, and waits for those that were sent a window ago. Left alone, the kernel
// begins late: the caller's fsync would then have most of the image to write, and
// could not be interrupted.
//
// Nothing here makes an image durable, and no failure counts: fsync reports
// what could not be written.
func send(conn syscall.RawConn, off int64) {
	if conn == nil {
		return
	}
	conn.Control(func(fd uintptr) {
		unix.SyncFileRange(int(fd), off, tree.LeafSize, unix.SYNC_FILE_RANGE_WRITE)
		if off >= window {
			unix.SyncFileRange(int(fd), off-window, tree.LeafSize, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
		}
	})
}
