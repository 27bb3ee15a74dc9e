package main_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A needle is a secret in one form, looked for in a guest's memory.
type needle struct {
	name string
	data []byte
}

// pieceSize is how much of a needle is enough to be found: every run of 31 of
// its bytes has a piece in it, so that what was overwritten in part is found,
// and what lies across two pages that do not lie side by side.
const pieceSize = 16

// forms returns the ways in which a secret could lie in memory: as it is, as
// hex digits, and as text of 16-bit characters.
func forms(name string, secret []byte) []needle {
	digits := hex.EncodeToString(secret)
	wide := make([]byte, 0, 2*len(secret))
	for _, b := range secret {
		wide = append(wide, b, 0)
	}
	return []needle{
		{name, secret},
		{name + " in hex", []byte(digits)},
		{name + " in HEX", []byte(strings.ToUpper(digits))},
		{name + " in UTF-16", wide},
	}
}

// place is where a needle lies, whole or in part.
type place struct {
	at    int64 // where its first byte lies, or would lie
	bytes int   // how much of it is there, in pieces
}

func (p place) String() string { return fmt.Sprintf("%d bytes at %#x", p.bytes, p.at) }

// traces says where each needle was found; what was not found is not in it.
type traces map[string][]place

// String lists the traces, a line each.
func (t traces) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "%s: %d: %v\n", name, len(t[name]), t[name])
	}
	return b.String()
}

// search looks for the needles in memory that it reads once, a window at a
// time; what lies across two windows is found as well.
func search(memory io.Reader, needles []needle) (traces, error) {
	const window = 1 << 20
	found := map[string]map[int64]int{}
	buf := make([]byte, 0, window+pieceSize)
	for base := int64(0); ; {
		n, err := io.ReadFull(memory, buf[len(buf):window])
		buf = buf[:len(buf)+n]
		for _, needle := range needles {
			for offset := 0; offset+pieceSize <= len(needle.data); offset += pieceSize {
				for _, i := range indexes(buf, needle.data[offset:offset+pieceSize]) {
					if found[needle.name] == nil {
						found[needle.name] = map[int64]int{}
					}
					found[needle.name][base+int64(i-offset)] += pieceSize
				}
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return collect(found), nil
		}
		if err != nil {
			return nil, err
		}
		// The next window begins with the bytes that cannot have been found.
		keep := pieceSize - 1
		base += int64(len(buf) - keep)
		buf = append(buf[:0], buf[len(buf)-keep:]...)
	}
}

// indexes returns where piece stands in b.
func indexes(b, piece []byte) []int {
	var at []int
	for from := 0; ; {
		i := bytes.Index(b[from:], piece)
		if i < 0 {
			return at
		}
		at = append(at, from+i)
		from += i + 1
	}
}

func collect(found map[string]map[int64]int) traces {
	t := traces{}
	for name, places := range found {
		for _, at := range slices.Sorted(maps.Keys(places)) {
			t[name] = append(t[name], place{at, places[at]})
		}
	}
	return t
}

func TestSearch(t *testing.T) {
	secret := make([]byte, 64)
	for i := range secret {
		secret[i] = byte(0xa0 + i)
	}
	needles := forms("secret", secret)
	memory := make([]byte, 3<<20)
	copy(memory[4096-10:], secret)        // across two pages
	copy(memory[1<<20-20:], secret)       // across two windows
	copy(memory[5000:], secret[17:17+31]) // the least that must be found
	copy(memory[9000:], secret[17:17+14]) // less
	copy(memory[2<<20:], needles[1].data) // hex
	copy(memory[3<<20-64:], secret)       // the end
	copy(memory[20000:], needles[3].data) // UTF-16
	copy(memory[30000:], needles[2].data) // upper case
	got, err := search(bytes.NewReader(memory), needles)
	want := "secret: 4: [64 bytes at 0xff6 16 bytes at 0x1377 64 bytes at 0xfffec 64 bytes at 0x2fffc0]\n" +
		"secret in HEX: 1: [128 bytes at 0x7530]\n" +
		"secret in UTF-16: 1: [128 bytes at 0x4e20]\n" +
		"secret in hex: 1: [128 bytes at 0x200000]\n"
	if err != nil || got.String() != want {
		t.Errorf("search = %v,\n%swant\n%s", err, got, want)
	}
}
