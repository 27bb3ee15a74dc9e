package sealed

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/image/xts"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

// chunkSize is how many bytes a worker holds: few enough to stay in its
// processor's cache from the read to the write, and many enough that taking
// turns costs nothing.
const chunkSize = 256 << 10

// An image is one that is being written, from its start to its end.
//
// Workers each take the next chunk of the source, in turn; encrypt and hash
// it, side by side; and write it with its digests, in turn again. Nothing
// waits in queues: what there is of buffers is one chunk a worker.
type image struct {
	cipher *xts.Cipher
	salt   []byte

	reading sync.Mutex // holds what is read
	src     io.Reader
	size    int64           // bytes that src must have
	taken   int64           // bytes of src that workers have taken
	last    <-chan struct{} // closed when the newest chunk is written

	// Whoever has the turn to write holds these.
	dst      io.WriterAt
	tree     *tree.Builder
	pages    pages
	progress func(done, total int64)
	done     int64 // bytes written so far
	total    int64
}

// A chunk is a part of the source on its way.
type chunk struct {
	data    []byte          // whole blocks
	first   uint64          // its first block's number within the segment
	before  <-chan struct{} // closed when the chunk before this one is written
	written chan struct{}
}

func newImage(dst io.WriterAt, src io.Reader, size int64, cipher *xts.Cipher, salt []byte, progress func(done, total int64)) (*image, error) {
	blocks, err := dataBlocks(size)
	if err != nil {
		return nil, err
	}
	p := verity.Params{DataBlocks: blocks}
	tree, err := tree.NewBuilder(io.NewOffsetWriter(dst, int64(p.DataSize())), blocks, salt)
	if err != nil {
		return nil, err
	}
	first := make(chan struct{})
	close(first)
	return &image{
		cipher: cipher, salt: salt, src: src, size: size, last: first,
		dst: dst, tree: tree, pages: pagesOf(dst), progress: progress, total: int64(p.DeviceSize()),
	}, nil
}

// write writes header, ciphertext and hash area, and returns what verifies
// them.
func (w *image) write(ctx context.Context, header []byte, id uuid.UUID) (verity.Params, error) {
	if err := w.append(ctx, header, tree.AppendDigests(nil, header, w.salt)); err != nil {
		return verity.Params{}, err
	}
	// One worker more than there are processors: while one waits for the disk,
	// or for its turn, the others have work.
	workers, ctx := errgroup.WithContext(ctx)
	for range min(int64(runtime.GOMAXPROCS(0)+1), (w.size+chunkSize-1)/chunkSize) {
		workers.Go(func() error { return w.work(ctx) })
	}
	if err := workers.Wait(); err != nil {
		return verity.Params{}, err
	}
	params, err := w.tree.Finish(id)
	if err != nil {
		return verity.Params{}, err
	}
	w.advance(w.total - w.done)
	return params, nil
}

// work seals one chunk after the other until the source is at its end.
func (w *image) work(ctx context.Context) error {
	buf := make([]byte, chunkSize)
	defer clear(buf) // plaintext, where an error comes before the cipher
	var digests []byte
	for {
		c, err := w.next(ctx, buf)
		if err != nil || c.data == nil {
			return err
		}
		w.encrypt(c)
		digests = tree.AppendDigests(digests[:0], c.data, w.salt)
		select {
		case <-c.before:
		case <-ctx.Done(): // the chunk before may never be written
			return stopped(ctx)
		}
		if err := w.append(ctx, c.data, digests); err != nil {
			return err
		}
		close(c.written)
	}
}

// next reads the next chunk into buf. After the last one, its data is nil.
func (w *image) next(ctx context.Context, buf []byte) (chunk, error) {
	w.reading.Lock()
	defer w.reading.Unlock()
	if ctx.Err() != nil {
		return chunk{}, stopped(ctx)
	}
	n := min(chunkSize, w.size-w.taken)
	if n == 0 {
		return chunk{}, w.atEnd()
	}
	if read, err := io.ReadFull(w.src, buf[:n]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return chunk{}, fmt.Errorf("%w: it ends after %d of the announced %d bytes", errSourceSize, w.taken+int64(read), w.size)
	} else if err != nil {
		return chunk{}, fmt.Errorf("cannot read the source: %w", err)
	}
	whole := (n + blockSize - 1) / blockSize * blockSize
	clear(buf[n:whole])
	c := chunk{data: buf[:whole], first: uint64(w.taken / blockSize), before: w.last, written: make(chan struct{})}
	w.taken += n
	w.last = c.written
	return c, nil
}

// atEnd looks whether the source is at its end.
func (w *image) atEnd() error {
	var more [1]byte
	switch _, err := io.ReadFull(w.src, more[:]); {
	case err == nil:
		return fmt.Errorf("%w: it goes on after the announced %d bytes", errSourceSize, w.size)
	case err != io.EOF:
		return fmt.Errorf("cannot read the source: %w", err)
	}
	return nil
}

// encrypt encrypts a chunk in place.
func (w *image) encrypt(c chunk) {
	const perBlock = blockSize / 512 // units of the tweak
	number := c.first * perBlock
	for b := c.data; len(b) > 0; b = b[blockSize:] {
		w.cipher.Encrypt(b[:blockSize], number)
		number += perBlock
	}
}

// append writes whole blocks of the image after the ones before, and takes
// their digests into the tree.
func (w *image) append(ctx context.Context, data, digests []byte) error {
	if ctx.Err() != nil {
		return stopped(ctx)
	}
	if _, err := w.dst.WriteAt(data, w.done); err != nil {
		return fmt.Errorf("cannot write the image: %w", err)
	}
	if err := w.tree.Append(digests); err != nil {
		return err
	}
	w.advance(int64(len(data)))
	w.pages.written(w.done)
	return nil
}

func (w *image) advance(n int64) {
	w.done += n
	if w.progress != nil {
		w.progress(w.done, w.total)
	}
}

func stopped(ctx context.Context) error {
	return fmt.Errorf("sealing was stopped: %w", context.Cause(ctx))
}

// window is how many bytes are sent to the disk at a time.
const window = 16 << 20

// pages sends a file's pages to the disk while the next ones are computed,
// and lets no more than two windows of them gather. Left alone, the kernel
// begins late: the caller's fsync would then have most of the image to
// write, and could not be interrupted.
//
// Nothing here makes an image durable, and no failure counts: fsync reports
// what could not be written.
type pages struct {
	conn syscall.RawConn // nil where dst is no file
	sent int64           // bytes whose writing was begun
}

func pagesOf(dst io.WriterAt) pages {
	f, ok := dst.(syscall.Conn)
	if !ok {
		return pages{}
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return pages{}
	}
	return pages{conn: conn}
}

// written is told that the file is written up to end.
func (p *pages) written(end int64) {
	if p.conn == nil || end-p.sent < window {
		return
	}
	p.conn.Control(func(fd uintptr) {
		// Begin this window before waiting for the one before it.
		unix.SyncFileRange(int(fd), p.sent, end-p.sent, unix.SYNC_FILE_RANGE_WRITE)
		if p.sent > 0 { // a length of 0 would mean the whole file
			unix.SyncFileRange(int(fd), 0, p.sent, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
		}
	})
	p.sent = end
}
