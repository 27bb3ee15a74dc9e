package secret

import (
	"os"
	"path/filepath"
	"testing"

	"cocoroot/unlock/fatal"
)

func TestWhyNoStore(t *testing.T) {
	dir := t.TempDir()
	if err := whyNoStore(filepath.Join(dir, "absent")); fatal.CodeOf(err, "") != fatal.NoDriver {
		t.Errorf("without a driver: %v; want NO-EFI-SECRET", err)
	}
	// A driver that takes the device now has not told why it did not before.
	if err := os.WriteFile(filepath.Join(dir, "bind"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := whyNoStore(dir); err == nil || fatal.CodeOf(err, "") != "" {
		t.Errorf("with a driver that binds: %v; want none of the three causes", err)
	}
}
