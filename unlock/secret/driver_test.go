package secret

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestWhyNoStore(t *testing.T) {
	dir := t.TempDir()
	if err := whyNoStore(filepath.Join(dir, "absent")); !errors.Is(err, ErrNoDriver) {
		t.Errorf("without a driver: %v; want ErrNoDriver", err)
	}
	// A driver that takes the device now has not told why it did not before.
	if err := os.WriteFile(filepath.Join(dir, "bind"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := whyNoStore(dir)
	for _, known := range []error{ErrNoDriver, ErrTable, ErrNone} {
		if err == nil || errors.Is(err, known) {
			t.Errorf("with a driver that binds: %v; want none of the three causes", err)
		}
	}
}
