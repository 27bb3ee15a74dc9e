package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// A key that is named where a command line belongs is refused, and nothing of
// it is printed or started.
func TestKeyAsCommandLine(t *testing.T) {
	r := newGuestRig(t)
	dir := t.TempDir()
	key := put(t, filepath.Join(dir, "key"), secretKey)
	for name, text := range map[string]string{
		"hex": secretKey, "base64": base64.StdEncoding.EncodeToString([]byte(secretKey)), "words": "correct horse battery staple\n", "binary": "\x00\x01\x02\xff" + secretKey,
	} {
		put(t, key, text)
		for verb, args := range map[string][]string{
			"measure": {"measure", "--mode", "sev", "--firmware", r.shared[1], "--kernel", r.cmdline, "--cmdline-file", key},
			"json":    {"measure", "--mode", "sev", "--firmware", r.shared[1], "--kernel", r.cmdline, "--cmdline-file", key, "--json"},
			"dry run": slices.Concat(r.hardware("sev-es", "--dry-run"), []string{"--cmdline-file", key}),
			"launch":  {"launch", "--simulate", "--firmware", r.shared[1], "--kernel", r.cmdline, "--initrd", r.cmdline, "--disk", r.cmdline, "--cmdline-file", key},
			"verify":  {"verify", r.cmdline, "--cmdline-file", key},
		} {
			code, out, stderr := call(t, args...)
			if code != fault.Failed || out != "" || !strings.Contains(stderr, "not a kernel command line") {
				t.Errorf("%s of a key in %s = %d, %q, %q; want a refusal", verb, name, code, out, stderr)
			}
			if strings.Contains(out+stderr, secretKey[:8]) || strings.Contains(stderr, "battery") {
				t.Errorf("%s of a key in %s prints it: %q", verb, name, stderr)
			}
		}
	}
	// A line that the guest would refuse is not started, and can be measured.
	line := put(t, filepath.Join(dir, "line"), "console=ttyS0\n")
	if code, _, stderr := call(t, slices.Concat(r.hardware("sev-es", "--dry-run"), []string{"--cmdline-file", line})...); code != fault.Failed || !strings.Contains(stderr, "guest would refuse") {
		t.Errorf("launch of another line = %d, %q; want a refusal", code, stderr)
	}
}

// seal --force keeps the key of the image that it replaces, by that image's hash.
func TestForceKeepsTheKey(t *testing.T) {
	oracle.Tool(t, "mksquashfs")
	root := aRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	seal := func(args ...string) string {
		t.Helper()
		code, out, stderr := call(t, append([]string{"seal", root, "-o", image, "--force", "--allow", "no-init"}, args...)...)
		if code != fault.OK {
			t.Fatalf("seal = %d, %q", code, stderr)
		}
		fields := strings.Fields(out)
		if kept := image + ".key." + fields[3][:16]; strings.Contains(stderr, kept) {
			t.Errorf("the new image's hash is in the old key's name: %q", stderr)
		}
		return fields[3]
	}
	hash := seal()
	first, err := os.ReadFile(image + ".key")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Dir(image)); strings.Contains(got, ".key.") {
		t.Errorf("the first seal left %s", got)
	}
	seal()
	kept, err := os.ReadFile(image + ".key." + hash[:16])
	if err != nil || string(kept) != string(first) {
		t.Errorf("the replaced key: %v; want it kept", err)
	}
	if fi, err := os.Stat(image + ".key." + hash[:16]); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the kept key: %v, %v; want mode 0600", fi, err)
	}
	// Nothing is kept of a seal that fails, nor of one that makes no key.
	before := names(t, filepath.Dir(image))
	if code, _, _ := call(t, "seal", filepath.Join(root, "absent"), "-o", image, "--force"); code == fault.OK {
		t.Fatal("seal of nothing succeeds")
	}
	if code, _, stderr := call(t, "seal", t.TempDir(), "-o", image, "--force"); code == fault.OK {
		t.Fatalf("seal of an empty root succeeds: %s", stderr)
	}
	if got := names(t, filepath.Dir(image)); got != before {
		t.Errorf("a failed seal left %s; want %s", got, before)
	}
	seal("--key-file", image+".key."+hash[:16])
	if got := names(t, filepath.Dir(image)); got != before {
		t.Errorf("a seal with a brought key left %s; want %s", got, before)
	}
}
