// Package secmem holds secrets in memory that the Go runtime never moves,
// copies, scans or swaps: an anonymous mapping outside the Go heap, locked,
// and left out of core dumps.
//
// It does not protect against code that copies the bytes elsewhere, against
// other processes of the same user with ptrace rights, or against a kernel
// that keeps its own copies.
package secmem

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Errors returned by Read.
var (
	ErrEmpty   = errors.New("it is empty")
	ErrTooLong = errors.New("it is too long")
)

// Buffer is locked memory. The zero value is empty and usable.
// A Buffer must be closed; it must not be copied.
type Buffer struct {
	mapping []byte // whole pages
	n       int    // bytes in use
}

// New returns a zeroed buffer of n bytes.
// It fails where the mapping or its locking does (RLIMIT_MEMLOCK): a secret
// is never kept in memory that could not be locked.
func New(n int) (*Buffer, error) {
	if n <= 0 {
		return nil, fmt.Errorf("cannot lock %d bytes of memory: size must be positive", n)
	}
	page := unix.Getpagesize()
	m, err := unix.Mmap(-1, 0, (n+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot map memory for a secret: %w", err)
	}
	b := &Buffer{mapping: m, n: n}
	if err := unix.Mlock(m); err != nil {
		b.Close()
		return nil, fmt.Errorf("cannot lock memory for a secret: %w", err)
	}
	if err := unix.Madvise(m, unix.MADV_DONTDUMP); err != nil {
		b.Close()
		return nil, fmt.Errorf("cannot keep a secret out of core dumps: %w", err)
	}
	return b, nil
}

// Bytes returns the secret. The slice aliases the locked memory and is
// invalid after Close.
func (b *Buffer) Bytes() []byte { return b.mapping[:b.n] }

// Truncate shortens the secret to its first n bytes and zeroes the rest.
func (b *Buffer) Truncate(n int) {
	clear(b.mapping[n:])
	b.n = n
}

// Wipe zeroes the memory; the buffer stays mapped.
func (b *Buffer) Wipe() {
	clear(b.mapping)
	runtime.KeepAlive(b)
}

// Close wipes the memory and gives it back. It may be called twice.
func (b *Buffer) Close() error {
	if b == nil || b.mapping == nil {
		return nil
	}
	b.Wipe()
	m := b.mapping
	b.mapping, b.n = nil, 0
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("cannot unmap the memory of a secret: %w", err)
	}
	return nil
}

// Read reads all of an open file into locked memory with plain read calls, so
// that no buffer in between holds a copy; name is for errors.
// A file of more than limit bytes is ErrTooLong, an empty one ErrEmpty.
func Read(fd int, name string, limit int) (*Buffer, error) {
	b, err := New(limit + 1)
	if err != nil {
		return nil, err
	}
	n, err := fill(fd, b.Bytes())
	switch {
	case err != nil:
		err = fmt.Errorf("cannot read %s: %w", name, err)
	case n == 0:
		err = fmt.Errorf("cannot use %s: %w", name, ErrEmpty)
	case n > limit:
		err = fmt.Errorf("cannot use %s: %w: more than %d bytes", name, ErrTooLong, limit)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	b.Truncate(n)
	return b, nil
}

// fill reads until end of file or until p is full.
func fill(fd int, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := unix.Read(fd, p[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// Drain makes the kernel release the memory of processes that have ended.
// Until then each CPU keeps references to some of their pages (mm/mlock.c and
// mm/swap.c: folio batches), locked ones among them, so their content outlives
// a process that was killed. Clean pages of files are dropped with them.
func Drain() error {
	// fs/drop_caches.c: lru_add_drain_all.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1\n"), 0); err != nil {
		return fmt.Errorf("cannot make the kernel free memory: %w", err)
	}
	return nil
}
