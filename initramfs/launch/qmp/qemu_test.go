package qmp

import (
	"bytes"
	"errors"
	"testing"

	"cocoroot/initramfs/oracle"
)

// TestQEMU drives a QEMU without machine: stop, go, refuse, quit.
func TestQEMU(t *testing.T) {
	conn, ended := oracle.QEMU(t, "-M", "none")
	ctx := soon(t)
	c, err := New(ctx, conn)
	if err != nil {
		t.Fatal(err)
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
	if e, err := c.Event(ctx, "RESUME"); err != nil {
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
	ended()
}
