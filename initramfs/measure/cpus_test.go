package measure

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/oracle"
)

func TestSignatures(t *testing.T) {
	for name, want := range map[string]Signature{
		"EPYC": 0x800f12, "EPYC-v4": 0x800f12, "EPYC-IBPB": 0x800f12, "EPYC-Rome": 0x830f10,
		"EPYC-Milan-v2": 0xa00f11, "EPYC-Genoa": 0xa10f10, "EPYC-Turin-v1": 0xb00f00,
		"EPYC-Milan-v4": 0xa00f11, "EPYC-Genoa-v3": 0xa10f10, "EPYC-Turin-v2": 0xb00f00, // QEMU 11.1's
	} {
		if got, err := LookupCPUType(name); err != nil || got != want {
			t.Errorf("LookupCPUType(%q) = %#x, %v; want %#x", name, got, err, want)
		}
	}
	for s, want := range map[string]Signature{
		"0x800f12": 0x800f12, "8392466": 0x800f12, "23/1/2": 0x800f12, "25/17/0": 0xa10f10, "6/15/11": 0x6fb,
	} {
		if got, err := ParseSignature(s); err != nil || got != want {
			t.Errorf("ParseSignature(%q) = %#x, %v; want %#x", s, got, err, want)
		}
	}
}

func TestBadCPUs(t *testing.T) {
	for _, name := range []string{"", "EPYC-v0", "EPYC-v6", "epyc-v4", "EPYC-IBPB-v1", "Skylake-Server", "EPYC-Milan,+x", "host", "max"} {
		if s, err := LookupCPUType(name); !errors.Is(err, ErrCPUs) || s != 0 {
			t.Errorf("LookupCPUType(%q) = %#x, %v; want ErrCPUs", name, s, err)
		}
	}
	names, _ := cpuTypes()
	if _, err := LookupCPUType("Opteron"); err == nil || !strings.Contains(err.Error(), strings.Join(names, ", ")) {
		t.Errorf("LookupCPUType(Opteron) = %v; want every known name", err)
	}
	for _, s := range []string{
		"", "0", "0x0", "-1", "x", "0x100000000", "0x10800f12", "0x801f12",
		"23/1", "23/1/2/3", "0/1/2", "271/1/2", "23/256/2", "23/1/16", "23/-1/2", "0x17/1/2", "//",
	} {
		if got, err := ParseSignature(s); !errors.Is(err, ErrCPUs) || got != 0 {
			t.Errorf("ParseSignature(%q) = %#x, %v; want ErrCPUs", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "0x10000000000000000", "0x801", "0x2001", "0x20001", "0x8000000000000001", "0x400001"} {
		if f, err := ParseFeatures(s); !errors.Is(err, ErrCPUs) {
			t.Errorf("ParseFeatures(%q) = %#x, %v; want ErrCPUs", s, f, err)
		}
	}
	for _, s := range []string{"0", "1", "0x21", "0x201", "0x21d7ff"} {
		if _, err := ParseFeatures(s); err != nil {
			t.Errorf("ParseFeatures(%q) error = %v", s, err)
		}
	}
	for _, n := range []int{-1, 0, MaxCPUs + 1} {
		if _, err := NewCPUs(n, 1, 0); !errors.Is(err, ErrCPUs) {
			t.Errorf("NewCPUs(%d) error = %v; want ErrCPUs", n, err)
		}
	}
	if _, err := NewCPUs(1, 0, 0); !errors.Is(err, ErrCPUs) {
		t.Errorf("NewCPUs(signature 0) error = %v; want ErrCPUs", err)
	}
	if _, err := NewCPUs(MaxCPUs, 1, 0); err != nil {
		t.Errorf("NewCPUs(%d) error = %v", MaxCPUs, err)
	}
}

// TestQEMUAgrees asks QEMU for each model that it has: its family, model and
// stepping are ours, and it has no EPYC that we do not know.
func TestQEMUAgrees(t *testing.T) {
	name := oracle.Tool(t, "qemu-system-x86_64")
	dir, err := os.MkdirTemp("", "measure")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	qemu := exec.CommandContext(t.Context(), name, "-M", "q35", "-accel", "tcg", "-m", "16", "-nodefaults", "-nographic", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { qemu.Process.Kill(); qemu.Wait() })
	var c *qmp.Client
	for range 1000 { // until QEMU has made the socket
		if c, err = qmp.Dial(t.Context(), socket); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var models []struct{ Name string }
	if err := c.Execute(t.Context(), "query-cpu-definitions", nil, &models); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range models {
		if !strings.HasPrefix(m.Name, "EPYC") {
			continue
		}
		n++
		if names, _ := cpuTypes(); !slices.Contains(names, m.Name) {
			t.Errorf("QEMU has the type %s, which LookupCPUType does not know", m.Name)
			continue
		}
		var got struct {
			Model struct {
				Props struct{ Family, Model, Stepping uint32 }
			}
		}
		if err := c.Execute(t.Context(), "query-cpu-model-expansion", map[string]any{"type": "full", "model": map[string]any{"name": m.Name}}, &got); err != nil {
			t.Fatal(err)
		}
		p := got.Model.Props
		if want, _ := LookupCPUType(m.Name); newSignature(p.Family, p.Model, p.Stepping) != want {
			t.Errorf("QEMU's %s is %d/%d/%d, signature %#x; LookupCPUType says %#x", m.Name, p.Family, p.Model, p.Stepping, newSignature(p.Family, p.Model, p.Stepping), want)
		}
	}
	if n < 9 {
		t.Errorf("QEMU has %d EPYC models; 7.2 has 9", n)
	}
}
