package dm

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTellUdev(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "udev/data")
	if err := tellUdev(dir, unix.Mkdev(253, 1)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "b253:1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "E:DM_UDEV_PRIMARY_SOURCE_FLAG=1\nV:1\n"; string(text) != want {
		t.Errorf("entry = %q; want %q", text, want)
	}
}
