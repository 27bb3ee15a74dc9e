package release

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/packet"
	"cocoroot/initramfs/qmp"
	"cocoroot/initramfs/session"
	"cocoroot/unlock/oracle"
)

// TestQEMU asks a real QEMU, which has no SEV here: it knows every command, and
// refuses in the words that the played one uses.
func TestQEMU(t *testing.T) {
	name := oracle.Tool(t, "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	var stderr bytes.Buffer
	qemu := exec.CommandContext(ctx, name, "-accel", "tcg", "-M", "q35", "-m", "16", "-nodefaults", "-nographic", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
	qemu.Stderr = &stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- qemu.Wait() }()
	t.Cleanup(func() { qemu.Process.Kill() })
	c, err := qmp.Dial(ctx, socket)
	for err != nil && ctx.Err() == nil { // until QEMU has made the socket
		time.Sleep(20 * time.Millisecond)
		c, err = qmp.Dial(ctx, socket)
	}
	if err != nil {
		t.Fatal(err, stderr.String())
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
	if err := <-exited; err != nil {
		t.Errorf("QEMU ended with %v: %s", err, stderr.String())
	}
}
