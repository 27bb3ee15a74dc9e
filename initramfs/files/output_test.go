package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// When one of the files cannot get its name, none has it.
func TestOutputsAllOrNone(t *testing.T) {
	dir := t.TempDir()
	var files Outputs
	for _, name := range []string{"a", "b", "c"} {
		if _, err := files.Create(filepath.Join(dir, name), 0o600, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "b"), []byte("somebody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := files.Commit()
	files.Discard()
	left, _ := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrExist) || len(left) != 1 || left[0].Name() != "b" {
		t.Errorf("Commit error = %v, files %v; want that b exists, and nothing else", err, left)
	}
}
