package main_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/policy"
)

// hostileACPI gives the guest an ACPI table whose code sends the injected
// secrets to the host as soon as the kernel runs it, and returns the file
// that it sends them to.
func (g *guest) hostileACPI(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	table, leak := filepath.Join(dir, "ssdt.aml"), filepath.Join(dir, "leak")
	code := read(t, "testdata/badaml.aml")
	at := bytes.Index(code, []byte{0xa5, 0xa5, 0xc0, 0xc0})
	if at < 0 {
		t.Fatal("badaml.aml has no place for the address of the secrets")
	}
	binary.LittleEndian.PutUint32(code[at:], secretArea(t, g.firmware).Base)
	write(t, table, code) // QEMU makes its checksum anew
	g.extra = append(g.extra, "-acpitable", "file="+table,
		"-chardev", "file,id=leak,path="+leak, "-device", "isa-debugcon,iobase=0x505,chardev=leak")
	return leak
}

// Firmware that installs the host's tables, as Debian's does (its hash stands
// in firmware_host_test.go), gives the host the key: -acpitable file=TABLE.
// TestHostCode shows that ours does not. On the other, --no-acpi is what helps.
func TestHostileACPI(t *testing.T) {
	t.Parallel()
	t.Run("takes the key on stock firmware", func(t *testing.T) {
		t.Parallel()
		g := standardImage(t).boots(t)
		g.firmware = stock(t)
		leak := g.hostileACPI(t)
		g.wiped(t, g.runs(t)) // too late
		if !bytes.Contains(read(t, leak), g.entries[0].Data.Bytes()) {
			t.Error("the table's code did not run: the tests that it does not run show nothing")
		}
	})
	dir := t.TempDir()
	image := seal(t, dir, testRoot(t, dir, testScript+"reboot -f"), "--no-acpi")
	t.Run("does not run with --no-acpi", func(t *testing.T) {
		t.Parallel()
		g := image.boots(t)
		g.firmware = stock(t)
		leak := g.hostileACPI(t)
		g.ends = "guest-reset"
		e := g.runs(t)
		g.wiped(t, e)
		if !strings.Contains(e.console, "boot-test: root is writable") {
			t.Error("the root lacks its writable layer")
		}
		if n := len(read(t, leak)); n > 0 {
			t.Errorf("the table's code sent %d bytes", n)
		}
	})
	// A failure would stand still in a power-off that does not work.
	t.Run("failure resets with --no-acpi", func(t *testing.T) {
		t.Parallel()
		g := image.boots(t)
		g.firmware = stock(t)
		leak := g.hostileACPI(t)
		g.entries[0] = entry(t, policy.DefaultKey, bytes.Repeat([]byte("k"), 64))
		g.ends = "guest-reset"
		g.fails(t, "LUKS-KEY")
		if n := len(read(t, leak)); n > 0 {
			t.Errorf("the table's code sent %d bytes", n)
		}
	})
}
