package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// A file that is one hole costs nobody hours.
func TestHashFilesBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kernel")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, MaxFile+1)); err != nil {
		t.Fatal(err)
	}
	for _, f := range [][2]string{{path, ""}, {"", path}} {
		if table, err := HashFiles(f[0], f[1], ""); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("HashFiles(%q) = %v, %v; want that a file is too long", f, table, err)
		}
	}
}

// TestMarshalByHand spells the 176 bytes out.
func TestMarshalByHand(t *testing.T) {
	table, err := NewHashesTable(strings.NewReader("kernel"), strings.NewReader("initrd"), "console=ttyS0")
	if err != nil {
		t.Fatal(err)
	}
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	want := "06d63894224fc94cb479a793d411fd21" + "a800" +
		"d82dd09720bd944caa78e7714d36ab2a" + "3200" + sum("console=ttyS0\x00") +
		"31f7ba442f3ad74b9af141e29169781d" + "3200" + sum("initrd") +
		"3794e74dd2ab7f42b835d5b172d2045b" + "3200" + sum("kernel") +
		"0000000000000000"
	if got := hex.EncodeToString(table.Marshal()); got != want {
		t.Errorf("Marshal() = %s; want %s", got, want)
	}
}

func TestNothingStillHasThreeEntries(t *testing.T) {
	table, err := NewHashesTable(strings.NewReader(""), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	want := HashesTable{Cmdline: sha256.Sum256([]byte{0}), Initrd: sha256.Sum256(nil), Kernel: sha256.Sum256(nil)}
	if table != want {
		t.Errorf("NewHashesTable(nothing) = %x; want %x", table, want)
	}
}

func TestNewHashesTableRefuses(t *testing.T) {
	for _, s := range []string{"a\x00b", "a\n", "\n", "a\r\n", "\x00"} {
		if _, err := NewHashesTable(strings.NewReader(""), nil, s); !errors.Is(err, errCmdline) {
			t.Errorf("NewHashesTable(cmdline %q) error = %v; want errCmdline", s, err)
		}
	}
	bad := iotest.ErrReader(io.ErrClosedPipe)
	if _, err := NewHashesTable(bad, nil, ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("NewHashesTable(unreadable kernel) error = %v; want it passed on", err)
	}
	if _, err := NewHashesTable(strings.NewReader(""), bad, ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("NewHashesTable(unreadable initrd) error = %v; want it passed on", err)
	}
}

func TestParseHashesTable(t *testing.T) {
	want, err := NewHashesTable(strings.NewReader("k"), strings.NewReader("i"), "c")
	if err != nil {
		t.Fatal(err)
	}
	b := want.Marshal()
	if got, err := ParseHashesTable(b); err != nil || got != want {
		t.Errorf("ParseHashesTable(Marshal()) = %x, %v; want %x", got, err, want)
	}
	inDigest := func(i int) bool {
		return i >= tableHead && i < TableLength && (i-tableHead)%tableEntry >= tableHead
	}
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1
		if _, err := ParseHashesTable(flipped); errors.Is(err, errTable) == inDigest(i) {
			t.Errorf("ParseHashesTable(byte %d flipped) error = %v; refused outside digests only", i, err)
		}
	}
	for _, b := range [][]byte{nil, b[:TableSize-1], b[:TableLength], append(b, 0)} {
		if _, err := ParseHashesTable(b); !errors.Is(err, errTable) {
			t.Errorf("ParseHashesTable(%d bytes) error = %v; want errTable", len(b), err)
		}
	}
}

// tableSeeds are a good table, one with an entry of another length, and a cut one.
func tableSeeds() [][]byte {
	good := HashesTable{Kernel: [32]byte{1}}.Marshal()
	length := bytes.Clone(good)
	length[tableHead+16]++
	return [][]byte{good, length, good[:100]}
}

func TestFuzzParseHashesTableSeeds(t *testing.T) {
	for i, b := range tableSeeds() {
		if _, err := ParseHashesTable(b); (err == nil) != (i == 0) {
			t.Errorf("seed %d: ParseHashesTable = %v; want the first accepted", i, err)
		}
	}
}

func FuzzParseHashesTable(f *testing.F) {
	for _, b := range tableSeeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if table, err := ParseHashesTable(b); err == nil && !bytes.Equal(table.Marshal(), b) {
			t.Errorf("ParseHashesTable accepted %x, which Marshal gives as %x", b, table.Marshal())
		}
	})
}
