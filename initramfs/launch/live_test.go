package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
)

// firmware returns the path of an AmdSev build: the one that build.sh has
// fetched, or else the public vectors'. Without it, or without QEMU, there is
// no live test.
func firmware(t *testing.T) string {
	t.Helper()
	oracle.Tool(t, "qemu-system-x86_64")
	return oracle.Artifact(t, "OVMF.amdsev.fd")
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// guest is a configuration that boots the test kernel.
func guest(t *testing.T, text, action string) Config {
	return Config{
		Firmware: firmware(t),
		Kernel:   write(t, "kernel", testKernel(text, action)),
		Cmdline:  "console=ttyS0",
		Memory:   512,
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// alive returns the fd folders of this process's children.
func alive(t *testing.T) []string {
	t.Helper()
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil || len(statuses) == 0 {
		t.Fatal("/proc has no processes: ", err)
	}
	var found []string
	for _, s := range statuses {
		b, _ := os.ReadFile(s) // it may be gone by now
		if strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			found = append(found, filepath.Join(filepath.Dir(s), "fd"))
		}
	}
	return found
}

// secretFiles returns the open files of the folders that were made for a
// secret table.
func secretFiles(t *testing.T, folders ...string) []string {
	t.Helper()
	var found []string
	for _, dir := range folders {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			p := filepath.Join(dir, e.Name())
			if to, _ := os.Readlink(p); strings.Contains(to, "cocoroot-secret") {
				found = append(found, p)
			}
		}
	}
	return found
}

// leavesNothing is checked after every launch.
func leavesNothing(t *testing.T) {
	t.Helper()
	if p := alive(t); len(p) != 0 {
		t.Errorf("QEMU is still there: %v", p)
	}
	if p := secretFiles(t, "/proc/self/fd"); len(p) != 0 {
		t.Errorf("the secret table is still open: %v", p)
	}
}

func TestBoot(t *testing.T) {
	c := guest(t, "[    0.5] cocoroot: FATAL NO_SECRET: inject one\r\ncocoroot: FATAL X: y\r\n", powerOff)
	c.Initrd = write(t, "initrd", []byte("any bytes"))
	var console bytes.Buffer
	got, err := Run(within(t, time.Minute), c, &console)
	if err != nil {
		t.Fatal(err)
	}
	if got.Reason != "guest-shutdown" || !got.Spoke || got.Panic != "" || got.Fatal == nil || *got.Fatal != (Fatal{"NO_SECRET", "inject one"}) {
		t.Errorf("Run = %+v, fatal %+v; want the first FATAL line and guest-shutdown", got, got.Fatal)
	}
	if !strings.Contains(console.String(), "FATAL NO_SECRET: inject one\r\n") || int64(console.Len()) != got.Bytes {
		t.Errorf("console = %q; want the guest's text, %d bytes in all", console.String(), got.Bytes)
	}
	leavesNothing(t)
}

func TestPanicAndReset(t *testing.T) {
	c := guest(t, "[    1.0] Kernel panic - not syncing: no init\n[    1.1] ---[ end Kernel panic - not syncing: no init ]---", reset)
	got, err := Run(within(t, time.Minute), c, nil)
	if err != nil || got.Reason != "guest-reset" || got.Panic != "Kernel panic - not syncing: no init" || got.Fatal != nil {
		t.Errorf("Run = %+v, %v; want the panic and guest-reset", got, err)
	}
}

// TestTablesInMemory reads the guest's memory from outside, after its end.
func TestTablesInMemory(t *testing.T) {
	c := guest(t, "x\n", powerOff)
	image, err := os.ReadFile(c.Firmware)
	if err != nil {
		t.Fatal(err)
	}
	fw, err := ovmf.Parse(image)
	if err != nil {
		t.Fatal(err)
	}
	c.SecretTable = bytes.Repeat([]byte("secret! "), int(fw.Secret.Size)/8) // as long as it can be
	kernel, err := os.ReadFile(c.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	table, err := measure.NewHashesTable(bytes.NewReader(kernel), nil, c.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	called := false
	c.OnStart = func(context.Context, *qmp.Client) error {
		files := secretFiles(t, alive(t)...)
		if len(files) == 0 {
			t.Error("QEMU was not given the secret table as a file in memory")
		}
		for _, f := range files {
			if info, err := os.Stat(f); err != nil || info.Size() != 0 {
				t.Errorf("%s still has %d bytes when the guest starts (%v)", f, info.Size(), err)
			}
		}
		return nil
	}
	c.OnShutdown = func(ctx context.Context, q *qmp.Client) error {
		called = true
		var status struct{ Status string }
		if err := q.Execute(ctx, "query-status", nil, &status); err != nil || status.Status != "shutdown" {
			t.Errorf("query-status in OnShutdown = %+v, %v; want shutdown", status, err)
		}
		for _, a := range []struct {
			base uint32
			want []byte
		}{{fw.Secret.Base, c.SecretTable}, {fw.Hashes.Base, table.Marshal()}} {
			to := filepath.Join(t.TempDir(), "memory")
			err := q.Execute(ctx, "pmemsave", map[string]any{"val": a.base, "size": len(a.want), "filename": to}, nil)
			if err != nil {
				return err
			}
			if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, a.want) {
				t.Errorf("memory at %#x = %q (%v); want %q", a.base, got, err, a.want)
			}
		}
		return nil
	}
	got, err := Run(within(t, time.Minute), c, nil)
	if err != nil || got.Reason != "guest-shutdown" || !called {
		t.Errorf("Run = %+v, %v; OnShutdown called: %v", got, err, called)
	}
	leavesNothing(t)
}

// TestRefusedBoot is the host that boots something else than was measured.
func TestRefusedBoot(t *testing.T) {
	good := guest(t, "hello\n", powerOff)
	good.Initrd = write(t, "initrd", []byte("initrd"))
	if got, err := Run(within(t, time.Minute), good, nil); err != nil || !got.Spoke {
		t.Fatalf("Run(unchanged) = %+v, %v", got, err)
	}
	for _, what := range []string{"kernel", "initrd", "command line"} {
		t.Run(what, func(t *testing.T) {
			c := good
			in, err := load(c)
			if err != nil {
				t.Fatal(err)
			}
			defer in.close()
			if c.HashesTable, err = in.table(c); err != nil {
				t.Fatal(err)
			}
			switch what {
			case "kernel":
				c.Kernel = write(t, "other", testKernel("evil!\n", powerOff))
			case "initrd":
				c.Initrd = write(t, "other", []byte("Initrd"))
			case "command line":
				c.Cmdline += " init=/bin/sh"
			}
			got, err := Run(within(t, time.Minute), c, nil)
			if want := "cocoroot firmware: the " + what + " is not the measured one"; !errors.Is(err, ErrNotBooted) || got.Spoke || got.Firmware != want || got.Reason != "" {
				t.Errorf("Run = %+v, %v; want ErrNotBooted and %q", got, err, want)
			}
			leavesNothing(t)
		})
	}
}

func TestNoHashesTable(t *testing.T) {
	c := guest(t, "evil!\n", powerOff)
	c.HashesTable = []byte{}
	c.Silence, c.OnSilence = time.Minute, func() { t.Error("hint about silence, though the firmware spoke") }
	got, err := Run(within(t, time.Minute), c, nil)
	if !errors.Is(err, ErrNotBooted) || got.Spoke || refusal(got.Firmware) == "" {
		t.Errorf("Run = %+v, %v; want ErrNotBooted and the firmware's word for it", got, err)
	}
	leavesNothing(t)
}

// TestSilence waits for the hint about a guest that prints nothing.
func TestSilence(t *testing.T) {
	c := guest(t, "", stay)
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	c.Silence, c.OnSilence = time.Second, cancel
	if got, err := Run(ctx, c, nil); !errors.Is(err, context.Canceled) || got.Spoke || got.Bytes != 0 {
		t.Errorf("Run = %+v, %v; want silence, and the hint that ends it", got, err)
	}
	leavesNothing(t)
}

// TestCancel ends a guest that does not end by itself.
func TestCancel(t *testing.T) {
	c := guest(t, "Waiting\ncocoroot: FATAL HALT: half a li", stay)
	c.SecretTable = []byte("secret")
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	console := writer(func(b []byte) (int, error) {
		if bytes.Contains(b, []byte("i")) { // the firmware prints none
			cancel()
		}
		return len(b), nil
	})
	before := time.Now()
	got, err := Run(ctx, c, console)
	if !errors.Is(err, context.Canceled) || !got.Spoke || got.Reason != "" {
		t.Errorf("Run = %+v, %v; want Canceled, and what was said until then", got, err)
	}
	if d := time.Since(before); d > 30*time.Second {
		t.Errorf("Run took %v after the context's end", d)
	}
	leavesNothing(t)
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestConsoleWriterFails(t *testing.T) {
	bad := errors.New("no more paper")
	calls := 0
	got, err := Run(within(t, time.Minute), guest(t, "hello\n", powerOff), writer(func([]byte) (int, error) { calls++; return 0, bad }))
	if !errors.Is(err, bad) || calls != 1 || got.Reason != "guest-shutdown" || !got.Spoke {
		t.Errorf("Run = %+v, %v after %d writes; want the guest to end well and the writer's error", got, err, calls)
	}
}

func TestHookFails(t *testing.T) {
	bad := errors.New("hook")
	fail := func(context.Context, *qmp.Client) error { return bad }
	c := guest(t, "hello\n", powerOff)
	c.SecretTable = []byte("secret")
	c.OnStart = fail
	if got, err := Run(within(t, time.Minute), c, nil); !errors.Is(err, bad) || got.Bytes != 0 {
		t.Errorf("Run(OnStart fails) = %+v, %v; want the hook's error and no boot", got, err)
	}
	leavesNothing(t)
	c.OnStart, c.OnShutdown = nil, fail
	if got, err := Run(within(t, time.Minute), c, nil); !errors.Is(err, bad) || got.Reason != "guest-shutdown" {
		t.Errorf("Run(OnShutdown fails) = %+v, %v; want the hook's error", got, err)
	}
	leavesNothing(t)
}

func TestDisks(t *testing.T) {
	c := guest(t, "hello\n", powerOff)
	c.Disks = []Disk{
		{Path: write(t, "odd,name:disk", make([]byte, 4096)), Serial: "first,disk"},
		{Path: write(t, "second", make([]byte, 4096)), Writable: true},
	}
	c.OnStart = func(ctx context.Context, q *qmp.Client) error {
		var disks []struct {
			Inserted struct {
				File string
				RO   bool
			}
		}
		if err := q.Execute(ctx, "query-block", nil, &disks); err != nil {
			return err
		}
		if len(disks) != 2 || disks[0].Inserted.File != c.Disks[0].Path || !disks[0].Inserted.RO || disks[1].Inserted.RO {
			t.Errorf("query-block = %+v; want the first disk read-only, the second not", disks)
		}
		return nil
	}
	if got, err := Run(within(t, time.Minute), c, nil); err != nil || !got.Spoke {
		t.Errorf("Run = %+v, %v", got, err)
	}
}

func TestQMPSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "qmp") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := guest(t, "hello\n", stay)
	c.QMPSocket = filepath.Join(dir, "a,b")
	asked := false
	console := writer(func(b []byte) (int, error) {
		if asked || !bytes.Contains(b, []byte("l")) { // the firmware prints none
			return len(b), nil
		}
		asked = true
		q, err := qmp.Dial(t.Context(), c.QMPSocket)
		if err != nil {
			return 0, err
		}
		defer q.Close()
		return len(b), q.Execute(t.Context(), "quit", nil, nil)
	})
	if got, err := Run(within(t, time.Minute), c, console); err != nil || got.Reason != "host-qmp-quit" {
		t.Errorf("Run = %+v, %v; want the end that another QMP client asked for", got, err)
	}
}

func TestQEMURefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"missing disk": func(c *Config) { c.Disks = []Disk{{Path: "/nonexistent/disk"}} },
		"bad option":   func(c *Config) { c.ExtraArgs = []string{"-device", "cocoroot-nonsense"} },
		"bad kernel":   func(c *Config) { c.Kernel = write(t, "garbage", bytes.Repeat([]byte("garbage "), 512)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := guest(t, "hello\n", powerOff)
			c.SecretTable = []byte("secret")
			change(&c)
			got, err := Run(within(t, time.Minute), c, nil)
			if !errors.Is(err, errRun) || !strings.Contains(err.Error(), "qemu") || strings.Contains(err.Error(), "TCG doesn't") || got.Bytes != 0 {
				t.Errorf("Run = %+v, %v; want QEMU's words about it", got, err)
			}
			t.Log(err)
			leavesNothing(t)
		})
	}
}

func TestCommandLine(t *testing.T) {
	c := guest(t, "hello\n", powerOff)
	c.SecretTable = []byte("secret")
	got, err := CommandLine(c, Version{7, 2})
	if err != nil {
		t.Fatal(err)
	}
	if got[0] != "qemu-system-x86_64" || !slices.Contains(got, c.Kernel) || slices.Contains(got, "-S") || !strings.Contains(strings.Join(got, " "), "file=secret-table.bin,addr=0x") {
		t.Errorf("CommandLine = %q; want one that can be tried by hand", got)
	}
}
