// Package state asks a running guest's state disks how new they are. Unlike its
// neighbours it runs in the guest, for programs there that report to the owner.
//
// What it says is as true as the guest. A number that the host passes on proves
// nothing.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
)

// StatusFile is what init writes.
const StatusFile = "/run/cocoroot/status.json"

// maxStatus bounds StatusFile, in bytes.
const maxStatus = 1 << 20

// Mount is a state disk that is mounted.
type Mount struct {
	Name       string `json:"name,omitempty"`
	Path       string `json:"path"`
	Generation uint64 `json:"generation"` // of the newest commit; it grows with each one
}

// Mounts reads which ones there are from init's status, with the generations that
// they had at the start.
func Mounts(status string) ([]Mount, error) {
	b, err := files.Read(status, maxStatus)
	if err != nil {
		return nil, err
	}
	var s struct{ States []Mount }
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", status, err)
	}
	return s.States, nil
}

// The requests of btrfs (include/uapi/linux/btrfs.h): start a commit, unless there
// is nothing to commit, and tell its generation, or that of the last one; wait
// until the one with a generation is on the disk. Both take a pointer to 64 bits.
const (
	btrfsStartSync = 0x80089418 // _IOR(0x94, 24, __u64)
	btrfsWaitSync  = 0x40089416 // _IOW(0x94, 22, __u64)
)

// Commit writes what is in memory to the state disk with the folder at path, and
// returns the generation with which all of it is on the disk.
func Commit(path string) (generation uint64, err error) {
	// Opening a FIFO waits for its writer, and opening a device may change it.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil { // a commit has no data that is still only in memory
		return 0, fmt.Errorf("cannot write %s to its disk: %w", path, err)
	}
	for _, request := range []uintptr{btrfsStartSync, btrfsWaitSync} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&generation)))
		switch {
		case errno == unix.ENOTTY:
			return 0, fmt.Errorf("%s is not on a state disk: %w", path, errors.ErrUnsupported)
		case errno != 0:
			return 0, fmt.Errorf("cannot write %s to its disk: %w", path, errno)
		}
	}
	return generation, nil
}
