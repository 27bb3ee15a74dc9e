package main_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure"
)

// What the firmware refuses: it says in one line what it lacks, wipes the
// secrets and stands still.
//
// Of SEV, QEMU can imitate nothing without the hardware. All of the firmware
// that these tests run is what runs there too; what it does only there (page
// state, #VC, the measurement of the table) is upstream's and is not tried here.

// refused boots a guest that the firmware must halt, with one line that has
// the words and nothing else on the serial port, and no secret left.
func (g *guest) refused(t *testing.T, words string) {
	t.Helper()
	e := g.run(t, bootLimit)
	if !errors.Is(e.err, launch.ErrNotBooted) {
		t.Errorf("outcome = %+v, %v; want launch.ErrNotBooted", e.Outcome, e.err)
	}
	lines := strings.Split(e.console, "\r\n")
	if len(lines) != 2 || lines[1] != "" || !strings.HasPrefix(lines[0], "cocoroot firmware: ") || !strings.Contains(lines[0], words) {
		t.Errorf("the console has %q; want the firmware's line with %q", e.console, words)
	}
	if len(e.page) == 0 || !bytes.Equal(e.page, make([]byte, len(e.page))) {
		t.Error("the secret area is not zero")
	}
}

// measured returns the table of what the guest boots: 18 bytes of
// header, then 50 each for command line, initrd and kernel, and 8 of zeros.
func (g *guest) measured(t *testing.T) []byte {
	t.Helper()
	table, err := measure.NewHashesTable(bytes.NewReader(read(t, g.kernel)), bytes.NewReader(read(t, g.initrd)), g.cmdline)
	if err != nil {
		t.Fatal(err)
	}
	b := table.Marshal()
	return b[:]
}

// without returns a table without its entry n; as its length says.
func without(table []byte, n int) []byte {
	from := 18 + 50*n
	out := append(bytes.Clone(table[:from]), table[from+50:168]...)
	binary.LittleEndian.PutUint16(out[16:], uint16(len(out)))
	return out
}

// edk2's own firmware is silent at a wrong hash and boots a blob that has no
// entry in the table.
func TestFirmwareRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*testing.T, *guest)
		words  string
	}{
		"kernel changed": {func(t *testing.T, g *guest) { g.kernel = changed(t, g.kernel, 1<<20) }, "the kernel is not the measured one"},
		"initrd changed": {func(t *testing.T, g *guest) { g.initrd = changed(t, g.initrd, 1<<10) }, "the initrd is not the measured one"},
		"command line changed": {
			func(_ *testing.T, g *guest) { g.cmdline += " init=/bin/sh" }, "the command line is not the measured one",
		},
		"no initrd": {func(_ *testing.T, g *guest) { g.initrd = "" }, "the initrd is not the measured one"},

		"no hash of the command line": {func(_ *testing.T, g *guest) { g.hashes = without(g.hashes, 0) }, "the command line has no measured hash"},
		"no hash of the initrd":       {func(_ *testing.T, g *guest) { g.hashes = without(g.hashes, 1) }, "the initrd has no measured hash"},
		"no hash of the kernel":       {func(_ *testing.T, g *guest) { g.hashes = without(g.hashes, 2) }, "the kernel has no measured hash"},
		"no hashes":                   {func(_ *testing.T, g *guest) { g.hashes = []byte{} }, "no table of measured hashes"},
		"table cut short":             {func(_ *testing.T, g *guest) { g.hashes = g.hashes[:150] }, "is not the measured one"}, // zeros for digits
		"table says less": {
			func(_ *testing.T, g *guest) { binary.LittleEndian.PutUint16(g.hashes[16:], 150) }, "the table of measured hashes is malformed",
		},
		"hash twice": {func(_ *testing.T, g *guest) {
			g.hashes = append(g.hashes[:168], g.hashes[118:168]...)
			binary.LittleEndian.PutUint16(g.hashes[16:], 218)
		}, "has an entry twice"},

		"124 MiB": {func(_ *testing.T, g *guest) { g.memory = 124 }, "too little memory"},
		"32 MiB":  {func(_ *testing.T, g *guest) { g.memory = 32 }, "too little memory"},
		// Not enough for the firmware to come to where it says so.
		"16 MiB": {func(_ *testing.T, g *guest) { g.memory = 16 }, "a check failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.hashes = g.measured(t)
			tc.change(t, g)
			g.refused(t, tc.words)
		})
	}
}
