package release

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
)

// startQEMU starts QEMU, stopped and without devices, and returns its end of a QMP
// connection on which nothing was said yet. ended waits until QEMU has ended
// by itself, and fails the test when it says that it failed.
func startQEMU(t testing.TB, args ...string) (conn net.Conn, ended func()) {
	t.Helper()
	program := oracle.Tool(t, "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "qmp") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	var stderr bytes.Buffer
	qemu := exec.CommandContext(ctx, program, append(args, "-nodefaults", "-nographic", "-S", "-qmp", "unix:"+l.Addr().String())...)
	qemu.Stderr = &stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() {
		exited <- qemu.Wait()
		l.Close() // nobody will connect any more
	}()
	t.Cleanup(func() { qemu.Process.Kill() })
	if conn, err = l.Accept(); err != nil {
		t.Fatalf("QEMU did not connect: %v: %s", <-exited, stderr.String())
	}
	return conn, func() {
		t.Helper()
		if err := <-exited; err != nil {
			t.Errorf("QEMU ended with %v: %s", err, stderr.String())
		}
	}
}
