package channel

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

// A guest connects, is cut off, and connects again by itself.
func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Open(policy.Channel{Kind: policy.TCP, Address: policy.IPv4{127, 0, 0, 1}, Port: uint32(l.Addr().(*net.TCPAddr).Port)}, policy.Static{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		c.Write([]byte("hello"))
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := peer.Read(got); err != nil || string(got) != "hello" {
			t.Errorf("the peer read %q, %v", got, err)
		}
		peer.Write([]byte("answer"))
		if got := readAll(t, c, 6); got != "answer" {
			t.Errorf("the guest read %q", got)
		}
		peer.Close()
		if n, err := c.Read(make([]byte, 10)); n != 0 || err != nil { // the end of the connection
			t.Errorf("Read = %d, %v; want nothing and no error", n, err)
		}
	}
}

// readAll reads until it has n bytes.
func readAll(t *testing.T, c *Channel, n int) string {
	t.Helper()
	var all []byte
	for end := time.Now().Add(20 * time.Second); len(all) < n && time.Now().Before(end); {
		b := make([]byte, n)
		m, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b[:m]...)
	}
	return string(all)
}

// Nobody listens, and nobody takes what is written: both cost time and nothing else.
func TestNobody(t *testing.T) {
	c, err := Open(policy.Channel{Kind: policy.TCP, Address: policy.IPv4{127, 0, 0, 1}, Port: 1}, policy.Static{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != unix.ECONNREFUSED {
		t.Errorf("Read = %d, %v; want ECONNREFUSED", n, err)
	}
}

// Every byte passes a serial port unchanged, in both directions.
func TestSerialIsRaw(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/pts/%d", number)
	c := &Channel{fd: -1, dial: func() (int, error) { return OpenSerial(path) }}
	defer c.Close()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	c.Write(all)
	got := make([]byte, 256)
	if n, err := pty.Read(got); err != nil || !bytes.Equal(got[:n], all[:n]) || n == 0 {
		t.Errorf("the host read %x, %v", got[:n], err)
	}
	if _, err := pty.Write(all); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, 256); got != string(all) {
		t.Errorf("the guest read %x", got)
	}
}

// A virtio port is found by its name, and waited for.
func TestVirtioPort(t *testing.T) {
	class := t.TempDir()
	for port, name := range map[string]string{"vport1p1": "org.qemu.guest_agent.0\n", "cocoroot-none": "release\n"} {
		if err := os.Mkdir(filepath.Join(class, port), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, port, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openVirtio(class, "release"); err != unix.ENOENT { // it is found, and has no node here
		t.Errorf("openVirtio = %v; want ENOENT of the port's device", err)
	}
	if _, err := openVirtio(class, "other"); err == nil || err == unix.ENOENT {
		t.Errorf("openVirtio = %v; want that there is no such port", err)
	}
}
