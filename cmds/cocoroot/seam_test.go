package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/vm"
)

// A hint is pasted into a shell: the names in it may be those of whoever made a tar.
func TestHintIsPasted(t *testing.T) {
	dir := t.TempDir()
	top := "a'; touch pwned #"
	if err := os.MkdirAll(filepath.Join(dir, "in", top, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "tar", "-C", filepath.Join(dir, "in"), "-cf", filepath.Join(dir, "a.tar"), top)
	_, _, stderr := call(t, "seal", filepath.Join(dir, "a.tar"), "-o", filepath.Join(dir, "image"))
	_, command, ok := strings.Cut(strings.TrimSpace(stderr), "from inside that folder: ")
	if !ok {
		t.Fatalf("seal says %q", stderr)
	}
	paste := exec.Command("sh", "-c", command)
	paste.Dir = filepath.Join(dir, "in")
	if out, err := paste.CombinedOutput(); err != nil || !strings.Contains(string(out), "etc/") {
		t.Errorf("%s = %q, %v", command, out, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "in", "pwned")); err == nil {
		t.Errorf("the name of a folder was run: %s", command)
	}
}

// What goes to the host is the file of its kind, and not a key that a file of
// settings calls so.
func TestSettingsSendNoKey(t *testing.T) {
	m := newMakings(t)
	key := put(t, m.path("key"), strings.Repeat("0123456789abcdef", 4))
	for _, part := range []string{"firmware", "kernel", "initrd"} {
		args := []string{"create", m.root, "-o", m.path("vm"), "--settings", put(t, m.path("settings"), part+` = "`+key+`"`)}
		for i := 0; i < len(m.boots); i += 2 {
			if m.boots[i] != "--"+part {
				args = append(args, m.boots[i:i+2]...)
			}
		}
		if code, _, stderr := call(t, args...); code != fault.Usage || !strings.Contains(stderr, key+" is not a file of the kind "+part) {
			t.Errorf("create with a key for its %s = %d, %q", part, code, stderr)
		}
	}
	if got := names(t, m.dir); got != "OVMF bzImage initrd key root settings" {
		t.Errorf("left: %s", got)
	}
}

// A guest without states does not get the key of those that an earlier guest in its
// folder had.
func TestStateKeyOfEarlierGuest(t *testing.T) {
	m := newMakings(t)
	dry := []string{"launch", m.path("vm"), "--simulate", "--qemu-version", "10.0", "--dry-run"}
	ok(t, m.create("--state", "data,/data,512M")...)
	key := must(os.ReadFile(m.path("vm/owner/state.key")))
	ok(t, m.create("--force")...)
	if again := must(os.ReadFile(m.path("vm/owner/state.key"))); !slices.Equal(again, key) {
		t.Error("the key of the states is not kept")
	}
	d := launchedWith(t, dry...)
	if len(d) != 1 || !strings.HasPrefix(d[0], "disk=") {
		t.Errorf("the guest gets %q; want its disk key only", d)
	}
}

// launchedWith returns the secrets that a launch of a guest's folder takes.
func launchedWith(t *testing.T, args ...string) []string {
	t.Helper()
	a := &app{stdout: new(strings.Builder), stderr: new(strings.Builder)}
	c := a.launch()
	if err := c.ParseFlags(args[2:]); err != nil {
		t.Fatal(err)
	}
	if err := launchFolder(c, args[1:2], ""); err != nil {
		t.Fatal(err)
	}
	return must(c.Flags().GetStringArray("secret"))
}

// The ports of this machine that lead to a guest are those that its owner has seen,
// and not what a host wrote into its half.
func TestPublishIsTheOwners(t *testing.T) {
	m := newMakings(t)
	m.root = aContainer(t, service)
	ok(t, m.create("--run", oracle.Artifact(t, "run"))...)
	path := m.path("vm/host/image.manifest.json")
	text := string(must(os.ReadFile(path)))
	changed := strings.Replace(text, "5353/udp", "5354/udp", 1)
	if changed == text {
		t.Fatalf("no port in %s", text)
	}
	put(t, path, changed)
	out := ok(t, "launch", m.path("vm"), "--simulate", "--dry-run", "--qemu-version", "10.0", "--publish")
	if !strings.Contains(out, "hostfwd=udp:127.0.0.1:5353-:5353") || strings.Contains(out, "5354") {
		t.Errorf("launch --publish = %s", out)
	}
}

// Whoever sends somebody the host's half of a guest has it read no file outside it, write to
// none, and wait for nothing.
func TestLinksOfOthers(t *testing.T) {
	m := newMakings(t)
	ok(t, m.create("--state", "data,/data,512M")...)
	mine := put(t, m.path("mine"), "not the guest's")
	theirs := m.path("vm/host")
	launch := []string{"launch", theirs, "--simulate", "--dry-run", "--qemu-version", "10.0", "--secret", "state=" + m.path("vm/owner/state.key")}
	ok(t, launch...)
	names := []string{"disks/data", vm.Image, vm.Firmware, vm.Kernel, vm.Initrd, vm.Cmdline, "vm.json",
		vm.Manifest, vm.Image + ".cmdline", vm.Run, vm.Session + "_session.b64", "disks"}
	for _, name := range names {
		refuseLinks(t, launch, filepath.Join(theirs, name), mine)
	}
	ok(t, launch...)
	// A folder with both halves may be theirs, too. What the owner's half knows has changed.
	for _, name := range []string{"host/image", "host/disks/data", "host/run", "owner/disk.key", "owner/state.key", "owner/secrets", "owner/secrets/" + guid} {
		if name == "owner/secrets/"+guid {
			if err := os.Mkdir(m.path("vm/owner/secrets"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		refuseLinks(t, []string{"launch", m.path("vm"), "--simulate", "--dry-run", "--qemu-version", "10.0"}, m.path("vm/"+name), mine)
	}
	put(t, m.path("vm/owner/secrets/"+guid+"=x"), "")
	if code, out, stderr := call(t, "launch", m.path("vm"), "--simulate", "--dry-run", "--qemu-version", "10.0"); code == fault.OK || !strings.Contains(stderr, "x: ") {
		t.Errorf("launch with a = in the name of a secret = %d, %s, %s", code, out, stderr)
	}
}

// refuseLinks lays a link, and a pipe, in the place of a file that may be there.
func refuseLinks(t *testing.T, launch []string, path, target string) {
	t.Helper()
	for what, lay := range map[string]func() error{
		"link": func() error { return os.Symlink(target, path) },
		"pipe": func() error { return unix.Mkfifo(path, 0o600) },
	} {
		away := filepath.Join(t.TempDir(), "away")
		_, err := os.Lstat(path)
		was := err == nil
		if was {
			err = os.Rename(path, away)
		} else {
			err = nil
		}
		if err := errors.Join(err, lay()); err != nil {
			t.Fatal(err)
		}
		code, out, stderr := call(t, launch...)
		if code == fault.OK || out != "" || !strings.Contains(stderr, path+": it is not a file in this folder") {
			t.Errorf("launch with a %s as %s = %d, %s, %s", what, path, code, out, stderr)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if was {
			if err := os.Rename(away, path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A line that comes from elsewhere does nothing to the terminal.
func TestDryRunTerminal(t *testing.T) {
	m := newMakings(t)
	ok(t, m.create()...)
	line := string(must(os.ReadFile(m.path("vm/host/cmdline"))))
	for _, odd := range []string{"\x1b[2J", "\u009b31m", "\xa0panic=0", "\r"} {
		put(t, m.path("vm/host/cmdline"), "x="+odd+" "+line)
		code, out, stderr := call(t, "launch", m.path("vm/host"), "--simulate", "--dry-run", "--qemu-version", "10.0")
		if code != fault.Failed || out != "" || strings.Contains(stderr, odd) {
			t.Errorf("launch with %q in the line = %d, %q, %q", odd, code, out, stderr)
		}
	}
}

// A state does not take the place of what is started, where a link of the image leads.
func TestSealStateOverInit(t *testing.T) {
	m := newMakings(t)
	if err := errors.Join(os.MkdirAll(filepath.Join(m.root, "data/bin"), 0o755), os.MkdirAll(filepath.Join(m.root, "sbin"), 0o755), os.Symlink("../data/bin/init", filepath.Join(m.root, "sbin/init"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.root, "data/bin/init"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := call(t, m.create("--state", "data,/data,512M")...)
	if code != fault.Failed || !strings.Contains(stderr, "it would hide /data/bin/init, which /sbin/init is") {
		t.Errorf("create = %d, %q", code, stderr)
	}
}
