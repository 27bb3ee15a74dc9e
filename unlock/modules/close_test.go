package modules

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestClose(t *testing.T) {
	proc := func(files ...string) string {
		t.Helper()
		dir := t.TempDir()
		for _, name := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	const (
		list = "modules"
		off  = "sys/kernel/modules_disabled"
	)
	both := proc(list, off)
	if err := closeIn(both); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(filepath.Join(both, off)); string(text) != "1\n" {
		t.Errorf("%s = %q; want 1", off, text)
	}
	// os.WriteFile makes no file in a folder that is not there.
	if err := closeIn(proc()); err != nil {
		t.Errorf("a kernel without modules: %v", err)
	}
	if err := closeIn(proc(list)); !errors.Is(err, errOpen) {
		t.Errorf("a kernel with modules and no switch: %v; want errOpen", err)
	}
	// What is written is not kept.
	keeps := proc(list)
	if err := os.MkdirAll(filepath.Join(keeps, "sys/kernel"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(keeps, off)); err != nil {
		t.Fatal(err)
	}
	if err := closeIn(keeps); !errors.Is(err, errOpen) {
		t.Errorf("a switch that stays: %v; want errOpen", err)
	}
}
