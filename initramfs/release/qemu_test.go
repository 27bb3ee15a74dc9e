package release

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release/packet"
)

// TestQEMU asks a real QEMU, which has no SEV here: it knows every command, and
// refuses in the words that the simulated one uses.
func TestQEMU(t *testing.T) {
	conn, ended := startQEMU(t, "-accel", "tcg", "-M", "q35", "-m", "16")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c, err := qmp.New(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	if r, err := Collect(ctx, c); !errors.Is(err, ErrNoSEV) || r != (Report{}) {
		t.Errorf("Collect = %+v, %v; want ErrNoSEV", r, err)
	}
	p := packet.Packet{Header: make([]byte, 52), Secret: make([]byte, 16)}
	if err := Inject(ctx, c, p); !errors.Is(err, ErrNoSEV) {
		t.Errorf("Inject error = %v; want ErrNoSEV", err)
	}
	if _, err := QueryPlatform(ctx, c); !errors.Is(err, ErrNoSEV) {
		t.Errorf("QueryPlatform error = %v; want ErrNoSEV", err)
	}
	// Past the checks: QEMU takes the arguments as they are named and refuses
	// for want of SEV; a wrong name it would refuse as such.
	var refused *qmp.Error
	err = c.Execute(ctx, "sev-inject-launch-secret", injection(p), nil)
	if !errors.As(err, &refused) || !strings.Contains(refused.Desc, "SEV not enabled") {
		t.Errorf("sev-inject-launch-secret: %v; want SEV not enabled", err)
	}
	err = c.Execute(ctx, "query-sev-launch-measure", nil, nil)
	if !errors.As(err, &refused) || !strings.Contains(refused.Desc, "launch measurement is not available") {
		t.Errorf("query-sev-launch-measure: %v; want that there is none", err)
	}
	if err := Continue(ctx, c); err != nil {
		t.Error(err)
	}
	if _, err := c.Event(ctx, "RESUME"); err != nil {
		t.Error(err)
	}
	if err := c.Execute(ctx, "quit", nil, nil); err != nil {
		t.Error(err)
	}
	ended()
}

// TestQMP drives a QEMU without machine: stop, go, refuse, quit.
func TestQMP(t *testing.T) {
	conn, ended := startQEMU(t, "-M", "none")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c, err := qmp.New(ctx, conn)
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
	var refused *qmp.Error
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
