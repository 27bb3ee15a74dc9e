package secret

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cocoroot/unlock/efi"
)

var (
	one = efi.MustParse("11111111-0000-0000-0000-000000000001")
	two = efi.MustParse("22222222-0000-0000-0000-000000000002")
)

// store makes a folder that looks like the kernel's.
func store(t *testing.T, files map[string]string) *Store {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o440); err != nil {
			t.Fatal(err)
		}
	}
	s, err := OpenStore([]string{filepath.Join(dir, "absent"), dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestOpenStoreAbsent(t *testing.T) {
	if _, err := OpenStore([]string{filepath.Join(t.TempDir(), "x")}); !errors.Is(err, ErrNoStore) {
		t.Errorf("OpenStore error = %v; want ErrNoStore", err)
	}
}

func TestReadAndRemove(t *testing.T) {
	s := store(t, map[string]string{one.String(): "key", two.String(): "other"})
	b, err := s.Read(one)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if string(b.Bytes()) != "key" {
		t.Errorf("Read = %q; want key", b.Bytes())
	}
	if err := s.RemoveAll(func(g efi.GUID) bool { return g == two }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(one); !errors.Is(err, ErrAbsent) {
		t.Errorf("Read after remove: error = %v; want ErrAbsent", err)
	}
	if got, err := s.GUIDs(); err != nil || !slices.Equal(got, []efi.GUID{two}) {
		t.Errorf("GUIDs = %v, %v; want %v", got, err, two)
	}
}

func TestRemoveAllKeepsWhatIsNamed(t *testing.T) {
	s := store(t, map[string]string{one.String(): "a", two.String(): "b", "not-a-guid": "c"})
	if err := s.RemoveAll(func(g efi.GUID) bool { return g == two }); err != nil {
		t.Fatal(err)
	}
	if names, _ := s.names(); !slices.Equal(names, []string{two.String()}) {
		t.Errorf("left = %q; want only %s", names, two)
	}
	if err := s.RemoveAll(nil); err != nil {
		t.Fatal(err)
	}
	if names, _ := s.names(); len(names) != 0 {
		t.Errorf("left = %q; want nothing", names)
	}
}

// The kernel shows so many entries and no more, which says nothing of the rest.
func TestFullFolder(t *testing.T) {
	files := make(map[string]string)
	for i := range MaxEntries + 1 {
		files[fmt.Sprintf("11111111-0000-0000-0000-%012d", i)] = "x"
	}
	s := store(t, files)
	if _, err := s.GUIDs(); !errors.Is(err, ErrTooMany) {
		t.Errorf("GUIDs error = %v; want ErrTooMany", err)
	}
	if err := s.RemoveAll(nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("RemoveAll error = %v; want ErrTooMany", err)
	}
	if names, _ := s.names(); len(names) != 0 {
		t.Errorf("%d entries are left; want none", len(names))
	}
}

// A folder cannot be unlinked, so it stands for an entry that stays.
func TestRemoveAllReportsWhatStays(t *testing.T) {
	s := store(t, map[string]string{two.String(): "b"})
	if err := os.Mkdir(filepath.Join(s.dir.Name(), one.String()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveAll(nil); !errors.Is(err, errStill) {
		t.Errorf("RemoveAll error = %v; want errStill", err)
	}
	if names, _ := s.names(); !slices.Equal(names, []string{one.String()}) {
		t.Errorf("left = %q; want only what cannot be removed", names)
	}
}

// switch_root moves the folder away from its path; the wipe must still work.
func TestRemoveAllAfterAMove(t *testing.T) {
	s := store(t, map[string]string{one.String(): "a"})
	moved := s.dir.Name() + "-moved"
	if err := os.Rename(s.dir.Name(), moved); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(moved) })
	if err := s.RemoveAll(nil); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(moved); len(left) != 0 {
		t.Errorf("left = %v; want nothing", left)
	}
}

var nameSeeds = []string{one.String(), "not-a-guid", "736869E5-84f0-4973-92ec-06879ce3da0b"}

// FuzzNames simulates a kernel whose folder holds any file name.
func FuzzNames(f *testing.F) {
	for _, s := range nameSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		dir := t.TempDir()
		if name != filepath.Base(name) || os.WriteFile(filepath.Join(dir, name), nil, 0o600) != nil {
			return // not a file name
		}
		s, err := OpenStore([]string{dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		guids, err := s.GUIDs()
		if err == nil && (len(guids) != 1 || guids[0].String() != lower(name)) {
			t.Fatalf("GUIDs = %v for %q", guids, name)
		}
		if err := s.RemoveAll(nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFuzzNamesSeeds(t *testing.T) {
	accepted := 0
	for _, name := range nameSeeds {
		if guids, err := store(t, map[string]string{name: "x"}).GUIDs(); err == nil && len(guids) == 1 {
			accepted++
		}
	}
	if accepted != 2 || len(nameSeeds) != 3 {
		t.Errorf("%d of %d seeds are names of entries; want 2 of 3", accepted, len(nameSeeds))
	}
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
