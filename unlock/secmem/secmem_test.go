package secmem

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

func TestWipeZeroesTheMemoryItself(t *testing.T) {
	b, err := New(64)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	alias := b.mapping // the backing pages, not the header that Wipe sees
	copy(b.Bytes(), bytes.Repeat([]byte{0xa5}, 64))
	b.Wipe()
	for i, c := range alias {
		if c != 0 {
			t.Fatalf("byte %d of the mapping = %#x after Wipe; want 0", i, c)
		}
	}
}

func TestTruncateZeroesTheTail(t *testing.T) {
	b, err := New(8)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	copy(b.Bytes(), "abcdefgh")
	b.Truncate(3)
	if got := b.mapping[:8]; !bytes.Equal(got, []byte("abc\x00\x00\x00\x00\x00")) {
		t.Errorf("memory = %q; want the first three bytes and zeros", got)
	}
}

func TestMemoryIsLockedAndNotDumped(t *testing.T) {
	b, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	flags := vmFlags(t, uintptr(unsafe.Pointer(&b.mapping[0])))
	for _, want := range []string{"lo", "dd"} { // locked, do not dump
		if !strings.Contains(flags, " "+want) {
			t.Errorf("VmFlags =%s; want %q among them", flags, want)
		}
	}
}

// vmFlags returns the VmFlags line of the mapping that holds addr.
func vmFlags(t *testing.T, addr uintptr) string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(smaps)) {
		var lo, hi uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &lo, &hi); n == 2 {
			inside = lo <= addr && addr < hi
		}
		if rest, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return rest
		}
	}
	t.Fatalf("no mapping holds %#x", addr)
	return ""
}
