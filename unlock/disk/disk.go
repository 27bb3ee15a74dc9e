// Package disk finds the block device that a policy names.
//
// The host decides what stands behind a name, when it appears and what it
// answers. Nothing read here is believed: the root hash is checked over
// whatever is found.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

// What a search can end with.
var (
	ErrAbsent = errors.New("the disk did not appear")
	ErrSmall  = errors.New("the disk is too small")
)

// sectorSize is the unit of /sys/class/block/*/size in bytes, whatever the
// disk's own sector is.
const sectorSize = 512

// maxDrain is how many events are dropped between two looks.
const maxDrain = 64

// Disk is a block device that was found.
type Disk struct {
	Path string // under /dev
	Size uint64 // bytes
}

// Wait looks for the disk until it is there or ctx ends, and checks that it
// holds at least need bytes. Between looks it sleeps until the kernel reports
// a device.
func Wait(ctx context.Context, want policy.Disk, need uint64) (Disk, error) {
	events, err := listen()
	if err != nil {
		return Disk{}, err
	}
	defer unix.Close(events)
	for {
		d, err := find(os.DirFS("/sys"), want)
		if err == nil {
			return check(d, need)
		}
		if !errors.Is(err, ErrAbsent) {
			return Disk{}, err
		}
		if ctx.Err() != nil {
			return Disk{}, fmt.Errorf("cannot find %s: %w", want, ErrAbsent)
		}
		if err := nextEvent(ctx, events); err != nil {
			return Disk{}, err
		}
	}
}

func check(d Disk, need uint64) (Disk, error) {
	if d.Size < need {
		return Disk{}, fmt.Errorf("cannot use %s: %w: it has %d bytes, the measured image %d", d.Path, ErrSmall, d.Size, need)
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Path, &st); err != nil {
		return Disk{}, fmt.Errorf("cannot use %s: %w", d.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Disk{}, fmt.Errorf("cannot use %s: it is not a block device", d.Path)
	}
	return d, nil
}

// listen opens the kernel's device events (netlink KOBJECT_UEVENT, group 1).
func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("cannot listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot listen for devices: %w", err)
	}
	return fd, nil
}

// nextEvent sleeps until there is an event or ctx ends. What the events say
// is dropped: they only wake the search. An overrun (ENOBUFS) is an event.
func nextEvent(ctx context.Context, fd int) error {
	wait := time.Second // in case that an event came before the socket
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, max(time.Until(end), 0))
	}
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds())+1)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("cannot wait for devices: %w", err)
	}
	var scratch [4096]byte
	for range maxDrain { // a flood of events does not hold up the search
		if _, err := unix.Read(fd, scratch[:]); err != nil && err != unix.ENOBUFS {
			break
		}
	}
	return nil
}

// find looks through the block devices that sysfs shows now.
func find(sys fs.FS, want policy.Disk) (Disk, error) {
	names, err := fs.ReadDir(sys, "class/block")
	if errors.Is(err, fs.ErrNotExist) {
		return Disk{}, ErrAbsent
	}
	if err != nil {
		return Disk{}, fmt.Errorf("cannot list the block devices: %w", err)
	}
	for _, e := range names {
		if !matches(sys, e.Name(), want) {
			continue
		}
		size, err := readLine(sys, e.Name(), "size")
		if err != nil {
			return Disk{}, fmt.Errorf("cannot read the size of %s: %w", e.Name(), err)
		}
		n, err := strconv.ParseUint(size, 10, 54)
		if err != nil {
			return Disk{}, fmt.Errorf("cannot read the size of %s: %w", e.Name(), err)
		}
		return Disk{Path: "/dev/" + e.Name(), Size: n * sectorSize}, nil
	}
	return Disk{}, ErrAbsent
}

func matches(sys fs.FS, name string, want policy.Disk) bool {
	switch want.Kind {
	case policy.ByPath:
		return name == want.Name
	case policy.BySerial:
		serial, err := readLine(sys, name, "serial")
		return err == nil && serial == want.Name
	case policy.ByPARTLABEL:
		return uevent(sys, name, "PARTNAME") == want.Name
	}
	return false
}

// uevent returns a value of a device's uevent file. The kernel reads the
// partition's name from the GPT; Linux 6.12 does not show its GUID here.
func uevent(sys fs.FS, name, key string) string {
	text, err := fs.ReadFile(sys, "class/block/"+name+"/uevent")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

func readLine(sys fs.FS, name, attribute string) (string, error) {
	text, err := fs.ReadFile(sys, "class/block/"+name+"/"+attribute)
	return strings.TrimSuffix(string(text), "\n"), err
}
