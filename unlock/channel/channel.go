// Package channel opens the way by which a guest speaks with its owner: a serial
// port, a virtio port, or a connection that the guest makes.
//
// Every way leads through the host, which reads, changes, delays and drops what
// it likes; package release is made for that. Nothing here waits long: a host
// that takes or gives no bytes costs the guest a moment, and the caller's time.
package channel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

const (
	// tick is how long Read waits for bytes.
	tick = time.Second
	// patience is how long Write waits for the host to take bytes.
	patience = 10 * time.Second
)

// Channel is an open way to the owner. It must be closed.
type Channel struct {
	fd   int // -1 when there is no connection at the moment
	dial func() (int, error)
}

// Open sets up what the channel needs. Read and Write open it, again and again
// when need be: a device or a peer may come later.
func Open(c policy.Channel, network policy.Static) (*Channel, error) {
	ch := &Channel{fd: -1}
	switch c.Kind {
	case policy.Serial:
		ch.dial = func() (int, error) { return OpenSerial("/dev/" + c.Name) }
	case policy.Virtio:
		ch.dial = func() (int, error) { return openVirtio("/sys/class/virtio-ports", c.Name) }
	case policy.TCP:
		if err := Configure(network); err != nil {
			return nil, err
		}
		ch.dial = func() (int, error) {
			return connect(unix.AF_INET, &unix.SockaddrInet4{Addr: c.Address, Port: int(c.Port)})
		}
	case policy.Vsock:
		ch.dial = func() (int, error) {
			return connect(unix.AF_VSOCK, &unix.SockaddrVM{CID: c.CID, Port: c.Port})
		}
	default:
		return nil, errors.New("no channel leads to the owner")
	}
	return ch, nil
}

// Close closes the channel. What was written has two seconds to leave; the kernel
// would give it half a minute (closing_wait in its drivers/tty/tty_port.c).
func (c *Channel) Close() {
	if c.fd < 0 {
		return
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(tick / 20) {
		if n, err := unix.IoctlGetInt(c.fd, unix.TIOCOUTQ); err != nil || n == 0 {
			break
		}
	}
	_ = unix.IoctlSetInt(c.fd, unix.TCFLSH, unix.TCOFLUSH) // of a serial port
	unix.Close(c.fd)
	c.fd = -1
}

// Read waits a second for bytes. None is no error: the other side may not be
// there yet, or come back. An error says why the channel is not open now.
func (c *Channel) Read(p []byte) (int, error) {
	if err := c.open(); err != nil {
		time.Sleep(tick)
		return 0, err
	}
	if !c.ready(unix.POLLIN) {
		return 0, nil
	}
	n, err := unix.Read(c.fd, p)
	if err == nil && n > 0 {
		return n, nil
	}
	if err != unix.EAGAIN && err != unix.EINTR {
		c.lost()
	}
	return 0, nil
}

// Write sends p. Bytes that the host does not take in 10 seconds are dropped: what
// they belong to is sent again.
func (c *Channel) Write(p []byte) {
	end := time.Now().Add(patience)
	for len(p) > 0 && time.Now().Before(end) && c.open() == nil {
		if !c.ready(unix.POLLOUT) {
			continue
		}
		n, err := unix.Write(c.fd, p)
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN: // a virtio port without a host at its other end
			time.Sleep(tick / 20)
		default:
			c.lost()
			return
		}
		p = p[max(n, 0):]
	}
}

// open opens the channel, unless it is open.
func (c *Channel) open() (err error) {
	if c.fd < 0 {
		c.fd, err = c.dial()
	}
	return err
}

// ready waits a tick for an event.
func (c *Channel) ready(event int16) bool {
	poll := []unix.PollFd{{Fd: int32(c.fd), Events: event}}
	n, err := unix.Poll(poll, int(tick.Milliseconds()))
	return err == nil && n > 0
}

// lost gives up the connection, and lets the host have a moment.
func (c *Channel) lost() {
	c.Close()
	time.Sleep(tick / 4)
}

// flags are those of every descriptor here.
const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC

// OpenSerial opens a serial port without any treatment of what passes. The
// descriptor does not block.
func OpenSerial(path string) (int, error) {
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open %s: %w", path, err)
	}
	t := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200, Ispeed: unix.B115200, Ospeed: unix.B115200}
	t.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openVirtio opens the virtio port that the host has given the name. A host
// that gives it to two ports has the guest speak to one of them.
func openVirtio(class, name string) (int, error) {
	files, err := filepath.Glob(filepath.Join(class, "*", "name"))
	if err != nil {
		return -1, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.TrimSuffix(string(text), "\n") == name {
			return unix.Open("/dev/"+filepath.Base(filepath.Dir(f)), flags, 0)
		}
	}
	return -1, fmt.Errorf("there is no virtio port %s; does the host give one, and is its driver in the archive (cocoroot initrd --channel virtio)?", name)
}

// connect connects a socket, and waits a tick for it.
func connect(family int, to unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, to)
	if err == unix.EINPROGRESS {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if _, err = unix.Poll(poll, int(tick.Milliseconds())); err == nil {
			var soft int
			if soft, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && soft != 0 {
				err = unix.Errno(soft)
			}
		}
		if err == nil {
			_, err = unix.Getpeername(fd)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
