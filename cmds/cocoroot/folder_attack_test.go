package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
)

// The host's half may have been at a host, and come back changed. Before a simulated
// launch gives the keys to what is in it, and before it is measured, it is compared
// with the owner's half.
func TestFolderCameBack(t *testing.T) {
	m := newMakings(t)
	vm := m.path("vm")
	ok(t, m.create("--state", "data,/data,16M", "--scratch", "8M", "--mode", "sev", "--firmware-unchecked")...)
	launch := []string{"launch", vm, "--simulate", "--dry-run", "--qemu-version", "10.0"}
	ok(t, launch...)
	for _, name := range []string{"firmware", "kernel", "initrd", "cmdline"} {
		path := filepath.Join(vm, "host", name)
		good := string(must(os.ReadFile(path)))
		put(t, path, good+" ")
		for _, args := range [][]string{launch, {"measure", "--mode", "sev", "--vm", vm}, {"verify", vm}} {
			if code, out, stderr := call(t, args...); code != fault.Tampered || out != "" || !strings.Contains(stderr, "not the file that was measured") {
				t.Errorf("%q with another %s = %d, %q, %q; want %d", args, name, code, out, stderr, fault.Tampered)
			}
		}
		put(t, path, good)
	}
	// A disk that the guest writes to is a file of this folder, and no way to another.
	mine := put(t, m.path("mine"), "not the guest's")
	for _, name := range []string{"disks/data", "disks/scratch", "disks"} {
		path := filepath.Join(vm, "host", name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		target := mine
		if name == "disks" {
			target = path + ".away"
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := call(t, launch...); code != fault.Failed || !strings.Contains(stderr, "cannot use the disk") {
			t.Errorf("launch with a link at %s = %d, %q", name, code, stderr)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	ok(t, launch...)
	ok(t, "launch", vm+"/host", "--mode", "sev", "--dry-run", "--qemu-version", "10.0", "--firmware-unchecked", "--session-file", mine, "--dh-cert-file", mine)
}
