package channel

import (
	"fmt"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

// Configure gives the interface the fixed address of ip=, as the kernel's own
// IP_PNP does where it is built in. Doing it twice changes nothing.
func Configure(s policy.Static) error {
	if s == (policy.Static{}) {
		return nil
	}
	if s.Interface == "" {
		s.Interface = FirstInterface()
	}
	err := setAddress(s.Interface, unix.SIOCSIFADDR, s.Address)
	if err == nil {
		err = setAddress(s.Interface, unix.SIOCSIFNETMASK, s.Mask)
	}
	if err == nil {
		err = Up(s.Interface)
	}
	if err == nil && s.Gateway != (policy.IPv4{}) {
		err = addRoute(s.Gateway)
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
func setAddress(name string, request uint, a policy.IPv4) error {
	return control(name, request, func(r *unix.Ifreq) error { return r.SetInet4Addr(a[:]) })
}

// Up sets an interface's flag IFF_UP.
func Up(name string) error {
	return control(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return nil
	})
}

// control does one call about an interface, with what set puts into it.
func control(name string, request uint, set func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = set(r)
	}
	if err != nil {
		return err
	}
	return withSocket(func(fd int) error { return unix.IoctlIfreq(fd, request, r) })
}

// withSocket runs do with a socket to set up the network with.
func withSocket(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
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
func addRoute(gateway policy.IPv4) error {
	const up, isGateway = 0x1, 0x2 // RTF_UP, RTF_GATEWAY
	r := rtentry{dst: sockaddr(policy.IPv4{}), gateway: sockaddr(gateway), genmask: sockaddr(policy.IPv4{}), flags: up | isGateway}
	return withSocket(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
		if errno != 0 && errno != unix.EEXIST {
			return errno
		}
		return nil
	})
}
