package secret

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
)

// sized returns a GUID and a length, and data.
func sized(g efi.GUID, length int, data string) string {
	return string(g[:]) + string(binary.LittleEndian.AppendUint32(nil, uint32(length))) + data
}

func tableOf(entries ...string) []byte {
	all := strings.Join(entries, "")
	return []byte(sized(TableGUID, HeaderSize+len(all), all))
}

func guid(i int) (g efi.GUID) {
	binary.LittleEndian.PutUint32(g[:], uint32(i))
	return g
}

// tables are tables that are read, or refused for one reason each.
func tables() map[string]struct {
	table []byte
	want  []string // nil: refused
} {
	one, two := sized(guid(1), 23, "key"), sized(guid(2), 20, "")
	return map[string]struct {
		table []byte
		want  []string
	}{
		"none":            {tableOf(), []string{}},
		"two":             {tableOf(one, two), []string{"key", ""}},
		"padded":          {append(tableOf(one), 0, 0, 0), []string{"key"}},
		"followed":        {append(tableOf(one), 0, 1), nil},
		"padding counted": {tableOf(one, strings.Repeat("\x00", 20)), nil},
		"a cut header":    {tableOf(one, "\x00"), nil},
		"twice":           {tableOf(one, one), nil},
		"no name":         {tableOf(sized(efi.GUID{}, 20, "")), nil},
		"entry too long":  {tableOf(sized(guid(1), 24, "key")), nil},
		"entry too short": {tableOf(sized(guid(1), 19, "key")), nil},
		"entry endless":   {tableOf(sized(guid(1), -1, "key")), nil},
		"table too long":  {[]byte(sized(TableGUID, 44, one)), nil},
		"table too short": {[]byte(sized(TableGUID, 19, one)), nil},
		"another GUID":    {[]byte(sized(guid(3), 43, one)), nil},
		"empty":           {nil, nil},
		"cut":             {tableOf()[:19], nil},
	}
}

// The seeds of FuzzEntries reach every end of the reader.
func TestFuzzEntriesSeeds(t *testing.T) {
	for name, tc := range tables() {
		got, err := Entries(tc.table)
		var data []string
		for _, e := range got {
			data = append(data, string(e.Data))
		}
		if err != nil && strings.Contains(err.Error(), guid(1).String()) {
			t.Errorf("%s: the error has bytes of the table: %v", name, err)
		}
		if (err != nil) != (tc.want == nil) || err == nil && !slices.Equal(data, tc.want) {
			t.Errorf("%s: %q, %v; want %q", name, data, err, tc.want)
		}
	}
}

func TestMostEntries(t *testing.T) {
	var many []string
	for i := range MaxEntries {
		many = append(many, sized(guid(i+1), 20, ""))
	}
	if got, err := Entries(tableOf(many...)); err != nil || len(got) != MaxEntries {
		t.Errorf("%d entries: %v", len(got), err)
	}
	if _, err := Entries(tableOf(append(many, sized(guid(100), 20, ""))...)); err == nil {
		t.Error("64 entries were taken")
	}
}

// Kept entries lie in memory that only root reads, and others nowhere.
func TestPut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "secrets")
	entries := []Entry{{guid(1), []byte("kept")}, {guid(2), []byte("not kept")}}
	err := Put(dir, entries, func(g efi.GUID) bool { return g == guid(1) })
	if errors.Is(err, unix.EPERM) {
		oracle.Forbidden(t, "cannot mount a file system of memory: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	s, err := OpenStore([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.GUIDs(); err != nil || !slices.Equal(got, []efi.GUID{guid(1)}) {
		t.Errorf("GUIDs = %v, %v", got, err)
	}
	got, err := s.Read(guid(1))
	if err != nil || string(got.Bytes()) != "kept" {
		t.Errorf("Read = %v", err)
	}
	got.Close()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != 0x858458f6 { // RAMFS_MAGIC
		t.Errorf("the file system has type %#x, %v", fs.Type, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, guid(1).String()): 0o400, filepath.Dir(dir): 0o755} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", path, fi.Mode(), err, want)
		}
	}
	if err := s.RemoveAll(nil); err != nil {
		t.Error(err)
	}
}

func FuzzEntries(f *testing.F) {
	for _, tc := range tables() {
		f.Add(tc.table)
	}
	f.Fuzz(func(t *testing.T, table []byte) {
		got, err := Entries(table)
		if err != nil {
			return
		}
		var parts []string
		for _, e := range got {
			parts = append(parts, sized(e.GUID, HeaderSize+len(e.Data), string(e.Data)))
		}
		if again := tableOf(parts...); !bytes.HasPrefix(table, again) {
			t.Errorf("%x is not what was read from %x", again, table)
		}
	})
}
