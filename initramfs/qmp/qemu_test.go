package qmp

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cocoroot/unlock/oracle"
)

// TestQEMU drives a QEMU without machine: stop, go, refuse, quit.
func TestQEMU(t *testing.T) {
	name := oracle.Tool(t, "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	var stderr bytes.Buffer
	qemu := exec.CommandContext(soon(t), name, "-M", "none", "-nodefaults", "-nographic", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
	qemu.Stderr = &stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- qemu.Wait() }()
	t.Cleanup(func() { qemu.Process.Kill() })

	ctx := soon(t)
	c, err := Dial(ctx, socket)
	for err != nil && ctx.Err() == nil { // until QEMU has made the socket
		time.Sleep(20 * time.Millisecond)
		c, err = Dial(ctx, socket)
	}
	if err != nil {
		t.Fatal(err, stderr.String())
	}
	defer c.Close()

	var status struct {
		Running bool
		Status  string
	}
	if err := c.Execute(ctx, "query-status", nil, &status); err != nil || status.Running {
		t.Errorf("query-status = %+v, %v; want paused by -S", status, err)
	}
	if err := c.Execute(ctx, "cont", nil, nil); err != nil {
		t.Error(err)
	}
	if e, err := c.Event(ctx, "RESUME"); err != nil || time.Since(e.Time) > time.Hour {
		t.Errorf("Event(RESUME) = %+v, %v", e, err)
	}
	var refused *Error
	if err := c.Execute(ctx, "pmemsave", map[string]any{"val": 0}, nil); !errors.As(err, &refused) || refused.Class != "GenericError" {
		t.Errorf("pmemsave without its arguments: %v; want *Error of class GenericError", err)
	}
	if err := c.Execute(ctx, "quit", nil, nil); err != nil {
		t.Error(err)
	}
	if e, err := c.Event(ctx, "SHUTDOWN"); err != nil || !bytes.Contains(e.Data, []byte("host-qmp-quit")) {
		t.Errorf("Event(SHUTDOWN) = %s, %v; want reason host-qmp-quit", e.Data, err)
	}
	if err := <-exited; err != nil {
		t.Errorf("QEMU ended with %v: %s", err, stderr.String())
	}
}
