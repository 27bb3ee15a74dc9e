package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/fatal"
)

// printed returns what f prints.
func printed(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdout
	os.Stdout = w
	f()
	os.Stdout = old
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	one   = "11111111-0000-0000-0000-000000000001"
	two   = "22222222-0000-0000-0000-000000000002"
	value = "a value that is shown to nobody"
)

func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{one: value, two: ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o440); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTakeSecrets(t *testing.T) {
	dir := folder(t)
	var err error
	text := printed(t, func() { err = takeSecrets([]string{dir}) })
	if err != nil {
		t.Errorf("takeSecrets = %v; want nil", err)
	}
	for _, want := range []string{"2 entries", one + ": 31 bytes", two + ": 0 bytes", "none is left"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if strings.Contains(text, value) {
		t.Error("a value was printed")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left = %v, %v; want nothing", left, err)
	}
}

// One entry that stays, and there is no shell; the others go all the same.
func TestEntryThatStays(t *testing.T) {
	dir := folder(t)
	stuck := filepath.Join(dir, "33333333-0000-0000-0000-000000000003")
	if err := os.Mkdir(stuck, 0o700); err != nil { // which unlink(2) refuses, also to root
		t.Fatal(err)
	}
	var err error
	text := printed(t, func() { err = takeSecrets([]string{dir}) })
	if fatal.CodeOf(err, "") != fatal.Wipe {
		t.Errorf("takeSecrets = %v; want WIPE", err)
	}
	if strings.Contains(text, "none is left") {
		t.Errorf("%q says that nothing is left", text)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left = %v, %v; want only the stuck one", left, err)
	}
}

func TestAbsent(t *testing.T) {
	var err error
	printed(t, func() { err = absent(fatal.Errorf(fatal.SecretNone, "none")) })
	if err != nil {
		t.Errorf("nothing injected: %v; want nil", err)
	}
	for why, want := range map[error]fatal.Code{
		fatal.Errorf(fatal.NoDriver, "no driver"): fatal.NoDriver, errors.New("busy"): fatal.Wipe,
	} {
		if err := absent(why); fatal.CodeOf(err, "") != want {
			t.Errorf("absent(%v) = %v; want %s", why, err, want)
		}
	}
}
