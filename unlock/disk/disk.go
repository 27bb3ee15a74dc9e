// Package disk finds the block device that a policy names.
//
// The host decides which disk has a name, when it appears and what it
// answers. Nothing read here is trusted: the root hash is checked over
// whatever is found. For the same reason a name that two devices have is
// refused instead of decided: no rule would make the choice safer, and an
// error that names both helps more than one about a wrong hash. A second
// device that appears after the first was taken no longer matters.
//
// A serial number and a partition table are read from the disk itself, which
// may never answer. That holds up neither the search among the others nor its
// end; at most maxAsking such reads stay behind. (A device that never says its
// serial number can still hold up the start of the image's program: the kernel
// waits for that read forever.)
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

// Errors returned by Wait.
var (
	ErrAbsent    = errors.New("the disk did not appear")
	ErrAmbiguous = errors.New("more than one disk has this name")
	ErrSmall     = errors.New("the disk is too small")
)

// Disk is a block device that was found.
type Disk struct {
	Path string // under /dev
	Size uint64 // bytes
}

// lookAnyway is the time after which the disks are looked at without an event:
// one may have come before the socket.
const lookAnyway = time.Second

// Wait looks for the disk until it is there or ctx ends, and checks that it
// holds at least need bytes. Between looks it sleeps until the kernel reports
// a device, a disk answers, or lookAnyway is over.
func Wait(ctx context.Context, want policy.Disk, need uint64) (Disk, error) {
	events, err := listen()
	if err != nil {
		return Disk{}, err
	}
	defer events.Close()
	s := newSearch(os.DirFS("/sys"), os.DirFS("/dev"), want)
	go forward(events, s.wake)
	d, err := s.run(ctx)
	if err != nil {
		return Disk{}, err
	}
	return check(d, need)
}

func check(d Disk, need uint64) (Disk, error) {
	if d.Size < need {
		return Disk{}, fmt.Errorf("cannot use %s: %w: it has %d bytes, the measured image %d", d.Path, ErrSmall, d.Size, need)
	}
	return d, nil
}

// listen opens the kernel's device events (netlink KOBJECT_UEVENT, group 1).
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot listen for devices: %w", err)
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// forward wakes the search at every event until the socket is closed. What
// the events say is dropped, and an overrun (ENOBUFS) is an event.
func forward(events *os.File, wake chan<- struct{}) {
	var scratch [4096]byte
	for {
		if _, err := events.Read(scratch[:]); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		signal(wake)
	}
}

// signal wakes the search, unless it is going to wake anyway.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
