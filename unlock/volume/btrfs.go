package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"
)

// FileSystem is what a volume holds, by the kernel's name.
const FileSystem = "btrfs"

// Superblock is what the volume's file system says of itself at its last
// commit.
type Superblock struct {
	Generation uint64 // grows by one with each commit
	Size       uint64 // bytes of the device that it takes
	Room       uint64 // bytes of the device
}

// errSuper means that there is no file system of ours.
var errSuper = errors.New("the volume holds no file system that was made with it")

// Where the superblock of btrfs lies, and its fields there; little-endian
// (struct btrfs_super_block in include/uapi/linux/btrfs_tree.h).
const (
	superOffset     = 64 << 10
	superMagicAt    = 0x40
	superGeneration = 0x48
	superTotalBytes = 0x70
	superMagic      = "_BHRfS_M"
)

// Superblock reads the superblock through the mapping, and so as a block that
// the key has written.
func (v Volume) Superblock() (s Superblock, err error) {
	f, err := v.device(os.O_RDONLY)
	if err != nil {
		return s, err
	}
	defer f.Close()
	block := NewBlock()
	if _, err := f.ReadAt(block, superOffset); err != nil {
		return s, fmt.Errorf("cannot read the superblock of %s: %w", v.Name, err)
	}
	if string(block[superMagicAt:][:len(superMagic)]) != superMagic {
		return s, fmt.Errorf("cannot use %s: %w", v.Name, errSuper)
	}
	size, err := f.Seek(0, io.SeekEnd)
	return Superblock{
		Generation: binary.LittleEndian.Uint64(block[superGeneration:]),
		Size:       binary.LittleEndian.Uint64(block[superTotalBytes:]),
		Room:       uint64(size),
	}, err
}

// device opens the mapped device past the page cache.
func (v Volume) device(flags int) (*os.File, error) {
	path, err := v.Path()
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, flags|unix.O_DIRECT, 0)
}

// Mount mounts the file system at a folder.
func (v Volume) Mount(at string, flags uintptr, data string) error {
	path, err := v.Path()
	if err != nil {
		return err
	}
	if _, err := mount.Mount(path, at, FileSystem, data, flags); err != nil {
		return fmt.Errorf("cannot mount %s: %w", v.Name, err)
	}
	return nil
}

// ioctl numbers (include/uapi/linux/btrfs.h): _IOW(0x94, 3, 4096 bytes) and
// _IOR(0x94, 31, 1024 bytes).
const (
	btrfsResize = 0x50009403
	btrfsFSInfo = 0x8400941f
)

// Grow makes the file system that is mounted at a folder take its whole device.
func Grow(at string) error {
	// struct btrfs_ioctl_vol_args: s64, then the text with its NUL.
	args := make([]uint64, 4096/8)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&args[1])), 8), "max")
	if err := ioctl(at, btrfsResize, args); err != nil {
		return fmt.Errorf("cannot grow the file system at %s: %w", at, err)
	}
	return nil
}

// Generation returns the number of the last commit of the file system that is
// mounted at a folder, or of the one after it when that has begun (Linux 5.10 and
// later).
func Generation(at string) (uint64, error) {
	// struct btrfs_ioctl_fs_info_args, in words of 8 bytes: 2 of numbers, 2 of
	// the identity, 3 of sizes, the flags of what is wanted and given, and the
	// generation.
	const flags, generation, wanted = 6, 7, 1 << 1
	args := make([]uint64, 1024/8)
	args[flags] = wanted
	if err := ioctl(at, btrfsFSInfo, args); err != nil {
		return 0, fmt.Errorf("cannot read the generation of %s: %w", at, err)
	}
	if args[flags]&wanted == 0 {
		return 0, fmt.Errorf("cannot read the generation of %s: %w", at, unix.EOPNOTSUPP)
	}
	return args[generation], nil
}

func ioctl(path string, request uintptr, args []uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&args[0]))); errno != 0 {
		return errno
	}
	return nil
}
