package sealed

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

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
