package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// When one of the files cannot get its name, none has it.
func TestOutputsAllOrNone(t *testing.T) {
	dir := t.TempDir()
	var files outputs
	for _, name := range []string{"a", "b", "c"} {
		if _, err := files.create(filepath.Join(dir, name), 0o600, false); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, "b"), "somebody else's")
	err := files.commit()
	files.discard()
	if got := names(t, dir); !errors.Is(err, fs.ErrExist) || got != "b" {
		t.Errorf("commit error = %v, files %q; want that b exists, and nothing else", err, got)
	}
}
