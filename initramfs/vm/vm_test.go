package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
)

// guest makes the folder of a guest, without an image.
func guest(t *testing.T, path string) Folder {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := New(path, Record{Modes: []launch.Mode{launch.ModeSNP}, VCPUs: []int{2}, Memory: 512, Disks: []Disk{{"data", 1 << 20, false}, {"scratch", 1 << 20, true}}})
	if err == nil {
		err = f.Take(Kernel, []byte("a kernel"))
	}
	for _, name := range []string{Owner + ".key", StateKey, DiskKey} {
		if err == nil {
			err = os.WriteFile(f.Own(name), []byte(path), 0o600)
		}
	}
	if err == nil {
		err = f.Save()
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm")
	guest(t, path)
	f, err := Open(path)
	if err != nil || !f.Owned() || f.Memory != 512 || f.At("x") != filepath.Join(path, "host/x") || f.Check(1<<20) != nil {
		t.Errorf("Open = %+v, %v", f, err)
	}
	if fi, err := os.Stat(f.Own()); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("owner: %v, %v; want mode 0700", fi, err)
	}
	h, err := Open(filepath.Join(path, "host")) // as it lies on the host
	if err != nil || h.Owned() || h.At(Kernel) != f.At(Kernel) {
		t.Errorf("Open of the host's half = %+v, %v", h, err)
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("Open of another folder: %v; want ErrNone", err)
	}
	os.WriteFile(f.At(record), []byte(`{"version": 2}`), 0o600)
	if _, err := Open(path); err != nil {
		t.Errorf("with another record of the host's: %v; want that the owner's counts", err)
	}
	os.WriteFile(f.At(Kernel), []byte("another"), 0o600)
	if err := f.Check(1 << 20); !errors.Is(err, ErrChanged) {
		t.Errorf("Check of another kernel: %v; want ErrChanged", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `{"version": 2, "vcpus": [1]}`, `{"version": 1}`, `{"version": 1, "vcpus": [1], "more": 1}`,
		`{"version": 1, "vcpus": [1], "disks": [{"name": "../x", "size": 1}]}`,
		`{"version": 1, "vcpus": [1], "disks": [{"name": ".x", "size": 1}]}`,
		`{"version": 1, "vcpus": [1], "disks": [{"name": "x", "size": 0}]}`,
		`{"version": 1, "vcpus": [1], "disks": [{"name": "x=y", "size": 1}]}`, // NAME=FILE would be another file
		`{"version": 1, "vcpus": [1], "disks": [{"name": "/", "size": 1}]}`,
		`{"version": 1, "vcpus": [1], "disks": [{"name": "-x", "size": 1}]}`,
		`{"version": 1, "vcpus": [1]}` + strings.Repeat(" ", maxRecord),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, record), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := Open(dir); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("Open of %.80q = %+v, %v; want another error", text, f, err)
		}
	}
}

// Disks are made once, and what nobody has written to may be formatted: a launch
// that fails early has not used up the order.
func TestMakeDisks(t *testing.T) {
	f := guest(t, filepath.Join(t.TempDir(), "vm"))
	makes := func(want string) {
		t.Helper()
		made, err := f.MakeDisks()
		if err != nil || strings.Join(made, " ") != want {
			t.Errorf("MakeDisks = %q, %v; want %q", made, err, want)
		}
	}
	makes("data")
	makes("data")
	disk, err := os.OpenFile(f.At(Disks, "data"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if _, err := disk.WriteAt([]byte{0}, 1<<20-1); err != nil {
		t.Fatal(err)
	}
	makes("")
	for _, name := range []string{"data", "scratch"} {
		if fi, err := os.Stat(f.At(Disks, name)); err != nil || fi.Size() != 1<<20 || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
}

// A disk that cannot be made leaves nothing that looks like one.
func TestMakeDisksFails(t *testing.T) {
	f := guest(t, filepath.Join(t.TempDir(), "vm"))
	f.Disks = []Disk{{"data", -1, false}} // as too large a size on some file systems
	if made, err := f.MakeDisks(); err == nil {
		t.Errorf("MakeDisks = %q", made)
	}
	if left, err := os.ReadDir(f.At(Disks)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A guest that takes another's place has its owner's keys and its states; the
// other keeps all that it needs to be released, for it may be deployed.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	old := guest(t, filepath.Join(dir, "vm"))
	if _, err := old.MakeDisks(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Secrets, Certs} {
		if err := errors.Join(os.Mkdir(old.Own(name), 0o700), os.WriteFile(old.Own(name, "x"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := New(filepath.Join(dir, "new"), Record{VCPUs: []int{1}})
	if err == nil {
		err = f.Inherit(old)
	}
	if err == nil {
		err = f.Save()
	}
	if err == nil {
		err = f.Replace(old, filepath.Join(dir, "kept"))
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(old.Path)
	if err != nil || len(got.Modes) != 0 {
		t.Fatalf("Open = %+v, %v; want the new one", got, err)
	}
	for path, want := range map[string]bool{
		"vm/owner/owner.key": true, "vm/owner/state.key": true, "vm/owner/disk.key": false, "vm/host/disks/data": true, "vm/owner/secrets/x": true, "vm/owner/certs/x": true,
		"kept/owner/owner.key": true, "kept/owner/state.key": true, "kept/owner/disk.key": true, "kept/host/disks": false, "kept/owner/secrets/x": true, "kept/owner/certs/x": true, "new": false,
	} {
		if _, err := os.Stat(filepath.Join(dir, path)); (err == nil) != want {
			t.Errorf("%s: %v; want that it is there: %t", path, err, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"300M": 300 << 20, "299M": 0, "10G": 10 << 30, "32767T": 32767 << 40, "": 0, "G": 0, "0G": 0, "-1G": 0, "10": 0, "10K": 0, "40000T": 0, "1.5G": 0} {
		if got, err := ParseSize(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}
