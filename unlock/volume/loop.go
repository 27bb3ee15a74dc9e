package volume

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attach makes a loop device of a file and returns its node. The kernel takes
// the device away when its last user has gone.
//
// Reads and writes go through the page cache of the file: into its pages, and
// into no others, is what a disk reads.
func attach(f *os.File, offset, size uint64) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a loop device: %w", err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("cannot make a loop device: %w", err)
	}
	node := fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a loop device: %w", err)
	}
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info = unix.LoopInfo64{Offset: offset, Sizelimit: size, Flags: unix.LO_FLAGS_AUTOCLEAR}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		loop.Close()
		return nil, fmt.Errorf("cannot make a loop device of %s: %w", f.Name(), err)
	}
	return loop, nil
}

// NewBlock returns a block of zeros that O_DIRECT can take: it lies at a multiple
// of its size.
func NewBlock() []byte {
	b := make([]byte, 2*BlockSize)
	skip := -uintptr(unsafe.Pointer(&b[0])) % BlockSize
	return b[skip:][:BlockSize]
}

// OpenDisk opens a disk for reading and writing, and for nobody else, and
// returns its size in bytes. flags are more flags for open(2).
func OpenDisk(path string, flags int) (*os.File, uint64, error) {
	f, err := os.OpenFile(path, flags|os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open the disk: %w", err)
	}
	if readOnly, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err != nil || readOnly != 0 {
		f.Close()
		return nil, 0, fmt.Errorf("cannot write to %s: %w", path, unix.EROFS)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("cannot read the size of %s: %w", path, err)
	}
	return f, uint64(size), nil
}
