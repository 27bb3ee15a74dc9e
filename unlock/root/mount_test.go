package root

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRefuseCompression(t *testing.T) {
	dir := t.TempDir()
	if err := refuseCompression(dir); err != nil {
		t.Errorf("a kernel that cannot decompress: %v", err)
	}
	if err := refuseCompression(filepath.Join(dir, "absent")); err == nil {
		t.Error("a kernel that does not say: no error")
	}
	if err := os.WriteFile(filepath.Join(dir, "sync_decompress"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refuseCompression(dir); err == nil || !strings.Contains(err.Error(), "reads compressed erofs") {
		t.Errorf("a kernel that can: %v; want an error", err)
	}
}
