package root

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCheckInit(t *testing.T) {
	root := t.TempDir()
	write := func(name string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("lib/systemd/systemd", 0o755)
	write("etc/passwd", 0o644)
	link("/lib/systemd/systemd", "init") // absolute, meant inside the image
	link("/../../../../bin/sh", "out")
	link("loop", "loop")

	for _, path := range []string{"/lib/systemd/systemd", "/init"} {
		if err := checkInit(root, path); err != nil {
			t.Errorf("checkInit(%s) = %v; want nil", path, err)
		}
	}
	// /out leads to /bin/sh of the image, which has none.
	for _, path := range []string{"/absent", "/etc/passwd", "/etc", "/etc/passwd/x", "/out"} {
		if err := checkInit(root, path); !errors.Is(err, ErrNoInit) {
			t.Errorf("checkInit(%s) = %v; want ErrNoInit", path, err)
		}
	}
	if err := checkInit(root, "/loop"); err == nil {
		t.Error("checkInit(a link to itself) succeeded")
	}
}

func TestSwitchRefusesOutsideAnInitramfs(t *testing.T) {
	if err := Switch("/sbin/init", nil, nil, false); !errors.Is(err, errUnsafe) {
		t.Errorf("Switch = %v; want errUnsafe", err)
	}
}

func TestRemoveTreeDoesNotFollowLinks(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "a/b/c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "a/link")); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left = %v; want nothing", left)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("the file that the link leads to: %v", err)
	}
}
