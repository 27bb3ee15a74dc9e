package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
)

// The host's half may have been at a host, and come back changed. Before a simulated
// launch gives the keys to what is in it, and before it is measured, it is compared
// with the owner's half.
func TestFolderCameBack(t *testing.T) {
	m := newMakings(t)
	vm := m.path("vm")
	ok(t, m.create("--state", "data,/data,512M", "--scratch", "512M", "--mode", "sev", "--firmware-unchecked")...)
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
	// A pipe to which nobody writes holds nothing up.
	kernel := filepath.Join(vm, "host/kernel")
	if err := errors.Join(os.Rename(kernel, kernel+".away"), unix.Mkfifo(kernel, 0o600)); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, launch...); code != fault.Tampered {
		t.Errorf("launch with a pipe for a kernel = %d, %q", code, stderr)
	}
	if err := os.Rename(kernel+".away", kernel); err != nil {
		t.Fatal(err)
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
		if code, _, stderr := call(t, launch...); code != fault.Failed || !strings.Contains(stderr, "but a link or the like") {
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

// The script starts the guest of its own folder, whatever that is called.
func TestScriptFolder(t *testing.T) {
	m := newMakings(t)
	ok(t, m.create("--mode", "sev", "--firmware-unchecked")...)
	script := string(must(os.ReadFile(m.path("vm/host/launch-sev.sh"))))
	fake := put(t, m.path("qemu-system-x86_64"), "#!/bin/sh\nls -d *.here\n")
	if err := os.Chmod(fake, 0o700); err != nil {
		t.Fatal(err)
	}
	folders := []string{"a", "a\n", "-x", "a b", "$(b)", "'", `"`, "`b`", "é\xff"}
	for i, name := range folders {
		if err := os.MkdirAll(m.path("copies/"+name), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, m.path("copies/"+name+"/launch-sev.sh"), script)
		put(t, m.path("copies/"+name+"/"+strconv.Itoa(i)+".here"), "")
	}
	for i, name := range folders {
		for _, from := range []string{m.path("copies"), m.path("copies/" + name)} {
			path := name + "/launch-sev.sh"
			if from != m.path("copies") {
				path = "launch-sev.sh"
			}
			cmd := exec.Command("sh", "--", path)
			cmd.Dir, cmd.Env = from, []string{"PATH=" + m.dir + ":/usr/bin:/bin", "CDPATH=" + m.path("copies/a")}
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != strconv.Itoa(i)+".here\n" {
				t.Errorf("%q from %q starts %q, %v; want %d.here", path, from, out, err, i)
			}
		}
	}
}

// A folder's name is neither an option of QEMU's nor one of ours.
func TestFolderNames(t *testing.T) {
	m := newMakings(t)
	for _, name := range []string{"vm,serial=x", "a,b=c", "-v", "json:{}", "a\nb", "nbd:x", "$(x)"} {
		args := m.create("--disk", "serial:image", "--state", "data,/data,512M")
		args[3] = m.path(name)
		ok(t, args...)
		out := ok(t, "launch", m.path(name), "--simulate", "--dry-run", "--qemu-version", "10.0")
		inQEMU := strings.ReplaceAll(m.path(name), ",", ",,")
		for _, want := range []string{"file=" + inQEMU + "/host/image,readonly=on", "file=" + inQEMU + "/host/disks/data", ",serial=image", "-kernel "} {
			if !strings.Contains(out, want) {
				t.Errorf("%q: no %q in %s", name, want, out)
			}
		}
	}
}

// While a guest is made, its keys and its plain file system lie in the owner's half,
// which nobody else can enter: also if nothing can be tidied up any more.
func TestCreateHalfDone(t *testing.T) {
	m := newMakings(t)
	m.root = m.path("pipe") // holds the work up
	if err := unix.Mkfifo(m.root, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan int, 1)
	go func() {
		code, _, _ := call(t, m.create()...)
		ended <- code
	}()
	var plain []string
	for start := time.Now(); len(plain) == 0 && time.Since(start) < time.Minute; time.Sleep(10 * time.Millisecond) {
		plain, _ = filepath.Glob(m.path(".vm.tmp-*/*/.cocoroot-seal-*"))
	}
	if len(plain) != 1 || filepath.Base(filepath.Dir(plain[0])) != "owner" {
		t.Fatalf("the plain file system lies in %q", plain)
	}
	keys, _ := filepath.Glob(m.path(".vm.tmp-*/*/.disk.key.tmp-*"))
	for _, path := range append(keys, plain...) {
		if fi, err := os.Stat(filepath.Dir(path)); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s is in a folder of %v, %v; want mode 0700", path, fi, err)
		}
	}
	if len(keys) != 1 || filepath.Dir(keys[0]) != filepath.Dir(plain[0]) {
		t.Errorf("the key lies in %q", keys)
	}
	if err := os.WriteFile(m.root, []byte("no root"), 0); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code == fault.OK || names(t, m.dir) != "OVMF bzImage initrd pipe root" {
		t.Errorf("create of no root = %d, files %s", code, names(t, m.dir))
	}
}
