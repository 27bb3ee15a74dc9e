package channel

import (
	"fmt"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

// dialTCP connects to an address.
func dialTCP(to policy.IPv4, port int) (int, error) {
	return connect(unix.AF_INET, &unix.SockaddrInet4{Addr: to, Port: port})
}

// Configure gives the interface the fixed address of ip=, as the kernel's own
// IP_PNP does where it is built in. Doing it twice changes nothing.
func Configure(s policy.Static) error {
	if s == (policy.Static{}) {
		return nil
	}
	if s.Interface == "" {
		s.Interface = FirstInterface()
	}
	fd, err := controlSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = setAddress(fd, unix.SIOCSIFADDR, s.Interface, s.Address)
	if err == nil {
		err = setAddress(fd, unix.SIOCSIFNETMASK, s.Interface, s.Mask)
	}
	if err == nil {
		err = Up(s.Interface)
	}
	if err == nil && s.Gateway != (policy.IPv4{}) {
		err = addRoute(fd, s.Gateway)
	}
	if err != nil {
		return fmt.Errorf("cannot set up the network card %s: %w", s.Interface, err)
	}
	return nil
}

// FirstInterface returns the first network interface that is a device, by name, or
// "".
func FirstInterface() string {
	found, _ := filepath.Glob("/sys/class/net/*/device") // the pattern is well formed
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return filepath.Base(filepath.Dir(found[0]))
}

// sockaddr is struct sockaddr_in: family, port, address.
func sockaddr(a policy.IPv4) unix.RawSockaddr {
	s := unix.RawSockaddr{Family: unix.AF_INET}
	for i, b := range a {
		s.Data[2+i] = int8(b)
	}
	return s
}

// setAddress does one of the SIOCSIF… calls that take an address.
func setAddress(fd int, request uint, name string, a policy.IPv4) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(a[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, request, r)
}

// Up sets an interface's flag IFF_UP.
func Up(name string) error {
	fd, err := controlSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// controlSocket returns a socket to set up interfaces with.
func controlSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot set up the network: %w", err)
	}
	return fd, nil
}

// rtentry is struct rtentry (include/uapi/linux/route.h).
type rtentry struct {
	_                     uint64
	dst, gateway, genmask unix.RawSockaddr
	flags                 uint16
	_                     [6]byte
	_                     [64]byte // metric and others, all zero
}

// addRoute adds the default route; one that is there is no error.
func addRoute(fd int, gateway policy.IPv4) error {
	const up, isGateway = 0x1, 0x2 // RTF_UP, RTF_GATEWAY
	r := rtentry{dst: sockaddr(policy.IPv4{}), gateway: sockaddr(gateway), genmask: sockaddr(policy.IPv4{}), flags: up | isGateway}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
	if errno != 0 && errno != unix.EEXIST {
		return errno
	}
	return nil
}
