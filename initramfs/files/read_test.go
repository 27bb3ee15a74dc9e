package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoroot/unlock/secmem"
)

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(path, []byte("sixteen bytes ok"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := ReadSecret(path, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if string(b.Bytes()) != "sixteen bytes ok" {
		t.Errorf("ReadSecret = %q", b.Bytes())
	}
	if _, err := ReadSecret(path, 15); !errors.Is(err, secmem.ErrTooLong) {
		t.Errorf("ReadSecret(16 bytes, limit 15) error = %v; want ErrTooLong", err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(empty, 16); !errors.Is(err, secmem.ErrEmpty) {
		t.Errorf("ReadSecret(empty) error = %v; want ErrEmpty", err)
	}
}
