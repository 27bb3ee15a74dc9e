package main_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret/table"
)

// Secrets as people inject them: with other writers' tables, other ends of
// the key, other names for it, and with entries that are not for us.

func TestKeepNone(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.entries = append(g.entries, entry(t, otherGUID, []byte("a secret for nobody")))
	g.cmdline += " cocoroot.keep=none"
	e := g.runs(t)
	g.wiped(t, e)
	if strings.Contains(e.console, otherGUID.String()) {
		t.Error("an entry that nothing names is still there")
	}
}

// The names of a disk key in Kata's bundles, and of an entry that is kept.
var (
	kataGUID = efi.MustParse("e6f5a162-d67f-4750-a67c-5d065f2a9910")
	keptGUID = efi.MustParse("aaaaaaaa-2222-3333-4444-555555555555")
)

func TestOtherKeyAndKeepList(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	key := g.entries[0].Data.Bytes()
	kept := []byte("a secret for the workload")
	g.entries = []table.Entry{
		entry(t, policy.DefaultKey, []byte("under the usual name there is no key")),
		entry(t, keptGUID, kept),
		entry(t, kataGUID, key),
		entry(t, otherGUID, []byte("a secret for nobody")),
	}
	g.cmdline += " cocoroot.key=" + kataGUID.String() + " cocoroot.keep=" + keptGUID.String()
	e := g.runs(t)
	_, listed, _ := strings.Cut(e.console, "boot-test: entries ")
	listed, _, _ = strings.Cut(listed, "\n")
	if got := strings.TrimSpace(listed); got != keptGUID.String() {
		t.Errorf("the program finds %q; want %s", got, keptGUID)
	}
	for _, n := range g.entries {
		if got, want := bytes.Contains(e.page, n.Data.Bytes()), n.GUID == keptGUID; got != want {
			t.Errorf("entry %s is in memory: %t; want %t", n.GUID, got, want)
		}
	}
}

// tableOf makes a table as other programs do. The padding is zeros; counted
// means that the length in the header has it in.
func tableOf(entries []table.Entry, padding int, counted bool) []byte {
	header := efi.MustParse("1e74f542-71dd-4d66-963e-ef4287ff173b")
	table := append(header[:], 0, 0, 0, 0)
	for _, e := range entries {
		table = append(table, e.GUID[:]...)
		table = binary.LittleEndian.AppendUint32(table, uint32(20+len(e.Data.Bytes())))
		table = append(table, e.Data.Bytes()...)
	}
	size := len(table)
	if counted {
		size += padding
	}
	binary.LittleEndian.PutUint32(table[16:], uint32(size))
	return append(table, make([]byte, padding)...)
}

func TestTableConventions(t *testing.T) {
	t.Parallel()
	for name, tc := range some(t, map[string]struct {
		after   string // the key in its entry
		beside  string // in another entry
		padding int
		counted bool
	}{
		"sevctl, no padding": {},
		// A table whose size is a multiple of 16 already gets 16 bytes more.
		"libvirt, full padding":                 {beside: "four", padding: 16},
		"full padding in the length":            {beside: "four", padding: 16, counted: true},
		"grub's, NUL and padding in the length": {after: "\x00", padding: 7, counted: true},
	}, "sevctl, no padding", "grub's, NUL and padding in the length") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.entries[0] = entry(t, policy.DefaultKey, append(g.entries[0].Data.Bytes(), tc.after...))
			if tc.beside != "" {
				g.entries = append(g.entries, entry(t, otherGUID, []byte(tc.beside)))
			}
			g.cmdline += " cocoroot.keep=none"
			g.table = tableOf(g.entries, tc.padding, tc.counted)
			if tc.padding > 0 && len(g.table)%16 != 0 {
				t.Fatalf("the table has %d bytes", len(g.table))
			}
			g.wiped(t, g.runs(t))
		})
	}
}

// Somebody wrote the key with echo: the guest says what is wrong with it, and
// nothing else of it.
func TestKeyWithNewline(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	key := g.entries[0].Data.Bytes()
	g.entries[0] = entry(t, policy.DefaultKey, append(bytes.Clone(key), '\n'))
	e := g.fails(t, "LUKS-KEY")
	if e.Fatal != nil && !strings.Contains(e.Fatal.Text, "ends in a newline") {
		t.Errorf("FATAL text = %q; want the newline named", e.Fatal.Text)
	}
	if strings.Contains(e.console, string(key[:8])) {
		t.Error("there is something of the key on the console")
	}
}

// A key may end in a newline by right: the exact bytes are tried first.
// The NUL after it is a carrier's.
func TestNewlineInKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "mykey")
	write(t, key, []byte("thirty-two and more random bytes\n"))
	s := seal(t, dir, testRoot(t, dir, ""), "--key-file", key)
	g := s.boots(t)
	g.entries[0] = entry(t, policy.DefaultKey, append(read(t, key), 0))
	g.wiped(t, g.runs(t))
}
