package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/secret"
)

// raw builds a table by hand: a header with the length given, or with the
// true one for -1, followed by the parts.
func raw(length int, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	if length < 0 {
		length = headerSize + len(body)
	}
	b := make([]byte, headerSize, headerSize+len(body))
	putHeader(b, secret.TableGUID, length)
	return append(b, body...)
}

func entry(guid byte, length int, data string) []byte {
	b := make([]byte, headerSize)
	var g efi.GUID
	g[0] = guid
	putHeader(b, g, length)
	return append(b, data...)
}

// sized is an entry with the right length.
func sized(guid byte, data string) []byte { return entry(guid, headerSize+len(data), data) }

func zeros(n int) []byte { return make([]byte, n) }

// many returns n entries without data.
func many(n int) []byte {
	var all []byte
	for i := range n {
		e := sized(1, "")
		binary.BigEndian.PutUint32(e, uint32(i+1))
		all = append(all, e...)
	}
	return all
}

var listings = []struct {
	name            string
	table           []byte
	want            error
	entries         int
	inside, outside int
}{
	{"one entry", raw(-1, sized(1, "key")), nil, 1, 0, 0},
	{"header only", raw(-1), nil, 0, 0, 0},
	{"entry without data", raw(-1, sized(1, "")), nil, 1, 0, 0},
	{"padding outside", raw(43, sized(1, "key"), zeros(5)), nil, 1, 0, 5},
	{"padding inside", raw(-1, sized(1, "key"), zeros(5)), nil, 1, 5, 0},
	{"19 zeros inside", raw(-1, sized(1, "key"), zeros(19)), nil, 1, 19, 0},
	{"20 zeros inside", raw(-1, sized(1, "key"), zeros(20)), errZeros, 1, 0, 0},
	{"20 zeros outside", raw(43, sized(1, "key"), zeros(20)), nil, 1, 0, 20},
	{"deleted entry", raw(-1, sized(0, "gone"), sized(1, "key")), nil, 2, 0, 0},
	{"deleted twice", raw(-1, sized(0, "gone"), sized(0, "too"), sized(1, "key")), nil, 3, 0, 0},
	{"63 entries", raw(-1, many(63)), nil, 63, 0, 0},
	{"63 entries and a deleted one", raw(-1, many(63), sized(0, "gone")), nil, 64, 0, 0},
	{"63 entries and zeros", raw(-1, many(63), zeros(40)), errZeros, 63, 0, 0},
	{"64 entries", raw(-1, many(64)), secret.ErrTooMany, 63, 0, 0},
	{"empty", nil, errLength, 0, 0, 0},
	{"19 bytes", raw(-1)[:19], errLength, 0, 0, 0},
	{"wrong GUID", sized(1, "key"), ErrHeader, 0, 0, 0},
	{"length 19", raw(19, sized(1, "key")), errLength, 0, 0, 0},
	{"length 0", raw(0), errLength, 0, 0, 0},
	{"length too long", raw(44, sized(1, "key")), errLength, 0, 0, 0},
	{"length of 4 GiB", raw(0xffffffff), errLength, 0, 0, 0},
	{"entry of 19", raw(-1, entry(1, 19, "key")), errEntry, 0, 0, 0},
	{"entry too long", raw(-1, entry(1, 24, "key")), errEntry, 0, 0, 0},
	{"entry of 4 GiB", raw(-1, entry(1, 0xffffffff, "key")), errEntry, 0, 0, 0},
	{"entry beyond the length", raw(42, sized(1, "key")), errEntry, 0, 0, 1},
	{"duplicate", raw(-1, sized(1, "key"), sized(1, "other")), errDuplicate, 1, 0, 0},
	{"longer than the area", raw(-1, sized(1, string(zeros(8192)))), ErrTooBig, 1, 0, 0},
}

func TestInspect(t *testing.T) {
	for _, tc := range listings {
		l := Inspect(tc.table, 4096)
		if !errors.Is(l.Fault, tc.want) || (tc.want == nil) != (l.Fault == nil) {
			t.Errorf("%s: Fault = %v; want %v", tc.name, l.Fault, tc.want)
		}
		if len(l.Entries) != tc.entries || l.Inside != tc.inside || l.Outside != tc.outside {
			t.Errorf("%s: %d entries, %d bytes inside, %d outside; want %d, %d, %d",
				tc.name, len(l.Entries), l.Inside, l.Outside, tc.entries, tc.inside, tc.outside)
		}
	}
}

func TestInspectPadding(t *testing.T) {
	for name, tc := range map[string]struct {
		table []byte
		want  bool
	}{
		"zeros inside":     {raw(-1, sized(1, "k"), zeros(3)), true},
		"zeros outside":    {raw(41, sized(1, "k"), zeros(3)), true},
		"something inside": {raw(-1, sized(1, "k"), []byte("abc")), false},
		"something after":  {raw(41, sized(1, "k"), []byte("abc")), false},
	} {
		if l := Inspect(tc.table, 4096); l.PaddingZero != tc.want || l.Fault != nil {
			t.Errorf("%s: PaddingZero = %v, Fault = %v; want %v and none", name, l.PaddingZero, l.Fault, tc.want)
		}
	}
}

func TestInspectForms(t *testing.T) {
	for data, want := range map[string][3]bool{ // NUL, newline, inner NUL
		"key":         {},
		"key\x00":     {true, false, false},
		"key\n":       {false, true, false},
		"key\n\x00":   {true, true, false},
		"k\x00y":      {false, false, true},
		"key\x00\x00": {true, false, true},
		"":            {},
	} {
		e := Listed{Data: []byte(data)}
		if got := [3]bool{e.EndsInNUL(), e.EndsInNewline(), e.HasInnerNUL()}; got != want {
			t.Errorf("%q: %v; want %v", data, got, want)
		}
	}
}

// What Build writes, Inspect reads back; so do the ways of other tools.
func TestConvention(t *testing.T) {
	for name, tc := range map[string]struct {
		table []byte
		want  string
	}{
		"cocoroot":        {raw(41, sized(1, "k"), zeros(7)), "7 bytes of padding, not counted in the length (cocoroot, sevctl, libvirt)"},
		"aligned":         {raw(-1, sized(1, "12345678")), "no padding needed (cocoroot, sevctl)"},
		"libvirt aligned": {raw(48, sized(1, "12345678"), zeros(16)), "16 bytes of padding that were not needed, not counted in the length (libvirt's virt-qemu-sev-validate)"},
		"counted":         {raw(-1, sized(1, "k"), zeros(7)), "7 bytes of padding, counted in the length"},
		"unpadded":        {raw(-1, sized(1, "k")), "no padding: LAUNCH_SECRET takes multiples of 16 bytes only"},
		"whole area":      {raw(41, sized(1, "k"), zeros(4055)), "4055 bytes after the length"},
	} {
		if got := Inspect(tc.table, 4096).Convention(); got != tc.want {
			t.Errorf("%s: %q; want %q", name, got, tc.want)
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, tc := range listings {
		if len(tc.table) < 1024 {
			f.Add(tc.table)
		}
	}
	f.Fuzz(func(t *testing.T, table []byte) {
		l := Inspect(table, 4096)
		if l.Fault != nil {
			return
		}
		at := headerSize
		shown := 0
		for _, e := range l.Entries {
			if e.Offset != at {
				t.Fatalf("entry at %d; want %d", e.Offset, at)
			}
			at += headerSize + len(e.Data)
			if !e.Deleted() {
				shown++
			}
		}
		if at+l.Inside != l.Length || l.Length+l.Outside != len(table) || shown > secret.MaxEntries || l.Size > 4096 {
			t.Errorf("Inspect(%x) = %+v, %d bytes in entries, %d shown", table, l, at, shown)
		}
	})
}

// TestFuzzInspectSeeds checks that the seeds get past the header and into entries.
func TestFuzzInspectSeeds(t *testing.T) {
	var good, refused int
	for _, tc := range listings {
		l := Inspect(tc.table, 4096)
		if l.Fault == nil && len(l.Entries) > 0 {
			good++
		} else if l.Fault != nil && len(l.Entries) > 0 {
			refused++
		}
	}
	if good < 5 || refused < 2 {
		t.Errorf("seeds: %d with entries taken, %d with entries refused", good, refused)
	}
}
