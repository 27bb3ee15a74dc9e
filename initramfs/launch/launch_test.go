package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/efi"
)

// footer returns the smallest firmware image that can be parsed, with areas
// for the two tables or without.
func footer(areas bool) []byte {
	var entries []byte
	if areas {
		secret := efi.MustParse("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
		hashes := efi.MustParse("7255371f-3a3b-4b04-927b-1da6efa8d454")
		entries = append(entries, 0, 0, 0x81, 0, 0, 0xc, 0, 0, 26, 0)
		entries = append(entries, secret[:]...)
		entries = append(entries, 0, 0xc, 0x81, 0, 0, 4, 0, 0, 26, 0)
		entries = append(entries, hashes[:]...)
	}
	guid := efi.MustParse("96b582de-1fb2-45f7-baea-a366c55a082d")
	b := append(entries, byte(len(entries)+18), 0)
	return append(append(b, guid[:]...), make([]byte, 32)...)
}

// onPaper is a configuration that can be loaded, though not booted.
func onPaper(t *testing.T) Config {
	return Config{
		Firmware: write(t, "firmware", footer(true)),
		Kernel:   write(t, "kernel", []byte("kernel")),
		Initrd:   write(t, "initrd", []byte("initrd")),
	}
}

func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no firmware":            func(c *Config) { c.Firmware = "" },
		"no kernel":              func(c *Config) { c.Kernel = "" },
		"line break":             func(c *Config) { c.Cmdline = "quiet\n" },
		"NUL":                    func(c *Config) { c.Cmdline = "quiet\x00" },
		"memory":                 func(c *Config) { c.Memory = -1 },
		"CPUs":                   func(c *Config) { c.CPUs = -1 },
		"accelerator":            func(c *Config) { c.Accel = "xen" },
		"disk without path":      func(c *Config) { c.Disks = []Disk{{Serial: "x"}} },
		"serial too long":        func(c *Config) { c.Disks = []Disk{{Path: "x", Serial: strings.Repeat("x", 21)}} },
		"serial with a space":    func(c *Config) { c.Disks = []Disk{{Path: "x", Serial: "a b"}} },
		"silence without a hint": func(c *Config) { c.Silence = time.Second },
		"hint without silence":   func(c *Config) { c.OnSilence = func() {} },
	} {
		c := onPaper(t)
		c.QEMU = "/nonexistent/qemu" // not reached
		change(&c)
		if _, err := Run(t.Context(), c, nil); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: Run error = %v; want ErrConfig", name, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   error
	}{
		{"secret table longer than its area", func(c *Config) { c.SecretTable = make([]byte, 0xc01) }, ovmf.ErrTooLong},
		{"hashes table longer than its area", func(c *Config) { c.HashesTable = make([]byte, 0x401) }, ovmf.ErrTooLong},
		{"firmware without areas", func(c *Config) { c.Firmware = write(t, "f", footer(false)) }, ovmf.ErrNoArea},
		{"firmware without footer", func(c *Config) { c.Firmware = c.Kernel }, ovmf.ErrNoFooter},
		{"missing kernel", func(c *Config) { c.Kernel += "x" }, fs.ErrNotExist},
		{"missing initrd", func(c *Config) { c.Initrd += "x" }, fs.ErrNotExist},
		{"endless firmware", func(c *Config) { c.Firmware = "/dev/zero" }, nil}, // any error,
	} {
		c := onPaper(t)
		tt.change(&c)
		in, err := load(c)
		if tt.want != nil && !errors.Is(err, tt.want) || err == nil || in != nil {
			t.Errorf("%s: load = %v, %v; want %v", tt.name, in, err, tt.want)
		}
		leavesNothing(t)
	}
}

// TestLoadedIsFixed exchanges the files during a launch.
func TestLoadedIsFixed(t *testing.T) {
	c := onPaper(t)
	in, err := load(c)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	for _, p := range []string{c.Firmware, c.Kernel, c.Initrd} {
		if err := os.WriteFile(p, []byte("evil"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	table, err := measure.NewHashesTable(strings.NewReader("kernel"), strings.NewReader("initrd"), "")
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]struct {
		*os.File
		want []byte
	}{
		"firmware": {in.files["firmware"], footer(true)},
		"kernel":   {in.files["kernel"], []byte("kernel")},
		"initrd":   {in.files["initrd"], []byte("initrd")},
		"hashes":   {in.files["hashes"], table.Marshal()},
	} {
		// As QEMU opens it.
		if got, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil || !bytes.Equal(got, f.want) {
			t.Errorf("%s = %q, %v; want %q", what, got, err, f.want)
		}
		if what == "hashes" {
			continue
		}
		if _, err := f.WriteAt([]byte("evil"), 0); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("writing to the %s: %v; want it sealed", what, err)
		}
	}
}

func TestWipeSecret(t *testing.T) {
	c := onPaper(t)
	c.SecretTable = []byte("secret")
	in, err := load(c)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", in.files["secret"].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	in.close()
	if b, err := io.ReadAll(other); err != nil || len(b) != 0 {
		t.Errorf("the secret's file after close = %q, %v; want it empty for everybody", b, err)
	}
	if string(c.SecretTable) != "secret" {
		t.Errorf("the caller's table = %q; want it left alone", c.SecretTable)
	}
}

// script returns a program that claims to be QEMU and then runs text.
func script(t *testing.T, text string) string {
	t.Helper()
	p := write(t, "qemu", []byte("#!/bin/sh\ncase $1 in --version) echo QEMU emulator version 7.2.22; exit;; esac\n"+text))
	if err := os.Chmod(p, 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestBadQEMU needs no QEMU: it simulates one.
func TestBadQEMU(t *testing.T) {
	for _, tt := range []struct {
		name, text, stderr string
	}{
		{"fails with words", "echo 'qemu: warning: old' >&2; for i in 1 2 3 4 5 6; do echo line $i >&2; done; exit 1", "line 2; line 3; line 4; line 5; line 6"},
		{"only warns", "echo 'qemu: warning: old' >&2; exit 1", "qemu: warning: old"},
		{"fails without words", "exit 3", "cannot run QEMU: exit status 3"},
		{"ends well, but at once", "exit 0", "before the guest did"},
		{"is killed", "kill -9 $$", "signal: killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := onPaper(t)
			c.SecretTable = []byte("secret")
			c.QEMU = script(t, tt.text)
			_, err := Run(within(t, time.Minute), c, nil)
			if !errors.Is(err, errRun) || !strings.HasSuffix(err.Error(), tt.stderr) {
				t.Errorf("Run error = %v; want one of the run with %q", err, tt.stderr)
			}
			leavesNothing(t)
		})
	}
}

func TestHangingQEMU(t *testing.T) {
	c := onPaper(t)
	c.SecretTable = []byte("secret")
	c.QEMU = script(t, "exec sleep 1000")
	if _, err := Run(within(t, time.Second), c, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run error = %v; want DeadlineExceeded", err)
	}
	leavesNothing(t)
}

func TestNotQEMU(t *testing.T) {
	c := onPaper(t)
	c.QEMU = "echo"
	if _, err := Run(t.Context(), c, nil); err == nil || errors.Is(err, errRun) {
		t.Errorf("Run(echo) error = %v; want that it says no version", err)
	}
	c.QEMU = "/nonexistent/qemu"
	if _, err := Run(t.Context(), c, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Run(missing program) error = %v; want ErrNotExist", err)
	}
}

// TestAwaitStop simulates a QEMU that has announced the end and still runs.
func TestAwaitStop(t *testing.T) {
	ours, theirs := net.Pipe()
	asked := 0
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {}}`)
		commands := json.NewDecoder(theirs)
		for id := 1; commands.Decode(new(any)) == nil; id++ {
			if id > 1 { // the first is qmp_capabilities
				asked++
			}
			fmt.Fprintf(theirs, `{"return": {"running": %v}, "id": %d}`+"\n", asked < 3, id)
		}
	}()
	client, err := qmp.New(within(t, time.Minute), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := awaitStop(within(t, time.Minute), client); err != nil || asked != 3 {
		t.Errorf("awaitStop = %v after %d questions; want 3", err, asked)
	}
}
