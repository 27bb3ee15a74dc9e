package files

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"cocoroot/unlock/secmem"
)

// MaxImage bounds the image of a firmware, in bytes.
const MaxImage = 64 << 20

// Read reads a file of at most limit bytes that holds no secret.
func Read(path string, limit int64) (_ []byte, err error) {
	defer unread(path, &err)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, min(fi.Size(), limit)+bytes.MinRead)) // a pipe's size is 0
	if _, err := b.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, err
	}
	if int64(b.Len()) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return b.Bytes(), nil
}

// unread says of an error what could not be read.
func unread(path string, err *error) {
	if *err != nil {
		*err = fmt.Errorf("cannot read %s: %w", path, withoutName(*err))
	}
}

// OpenFinite opens a file or a pipe. A device such as /dev/zero has no end.
func OpenFinite(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Mode()&os.ModeDevice != 0 {
		err = fmt.Errorf("%s is a device", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// IsQcow2 reports whether a file begins as a disk image of QEMU's own format
// (docs/interop/qcow2.rst), which only sealing reads.
func IsQcow2(head []byte) bool { return bytes.HasPrefix(head, []byte("QFI\xfb")) }

// Raw says what to do with a qcow2 elsewhere.
const Raw = "it is a qcow2; qemu-img convert -O raw makes a raw image of it"

// CheckRaw returns an error for a qcow2, and none for what cannot be read here.
func CheckRaw(path string) error {
	f, _, err := Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err == nil && IsQcow2(head) {
		return fmt.Errorf("cannot use the disk %s: %s", path, Raw)
	}
	return nil
}

// Open opens a regular file or a block device, and returns its length in bytes.
func Open(path string) (_ *os.File, size int64, err error) {
	defer unread(path, &err)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would keep us waiting
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() && fi.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		err = errors.New("it is neither a regular file nor a block device")
	}
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// ReadSecret reads the whole file at path into locked memory. The errors are
// those of secmem.Read: secmem.ErrTooLong for more than limit bytes,
// secmem.ErrEmpty for none.
func ReadSecret(path string, limit int) (*secmem.Buffer, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return secmem.Read(fd, path, limit)
}

// Decompress returns the bytes of a stream that is gzip, zstd, xz, bzip2 or
// none of these, and which. A decoder's memory does not depend on the stream's
// length: zstd may look back on window bytes of its output, xz on as many as
// the stream asks for.
func Decompress(r io.Reader, window uint64) (plain io.ReadCloser, format string, err error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch is := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }; {
	case is("\x1f\x8b"): // RFC 1952
		format = "gzip"
		plain, err = gzip.NewReader(b)
	case is("\x28\xb5\x2f\xfd"): // RFC 8878
		format = "zstd"
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1)); err == nil {
			plain = z.IOReadCloser()
		}
	case is("\xfd7zXZ\x00"): // the .xz file format, 1.2
		format = "xz"
		var x *xz.Reader
		x, err = xz.NewReader(b)
		plain = io.NopCloser(x)
	case is("BZh"):
		return io.NopCloser(bzip2.NewReader(b)), "bzip2", nil
	default:
		return io.NopCloser(b), "none", nil
	}
	if err != nil {
		return nil, format, fmt.Errorf("cannot decompress it: %w", err)
	}
	return plain, format, nil
}
