package release

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
)

// TestQEMU asks a real QEMU, which has no SEV here: it knows every command, and
// refuses in the words that the simulated one uses.
func TestQEMU(t *testing.T) {
	conn, ended := oracle.QEMU(t, "-accel", "tcg", "-M", "q35", "-m", "16")
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
	p := packet.Packet{Payload: make([]byte, 16)}
	if err := Inject(ctx, c, p, session.Measurement{}); !errors.Is(err, ErrNoSEV) {
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
