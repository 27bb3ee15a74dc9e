package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	imageverify "cocoroot/initramfs/image/verify"

	"cocoroot/initramfs/fault"
	"cocoroot/unlock/policy"
)

// TestVerify flips one byte in each region of an image.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	image, bad := filepath.Join(dir, "image"), filepath.Join(dir, "bad")
	sealOK(t, aRoot(t), "-o", image)
	reference := []string{"--manifest", image + ".manifest.json"}
	verify := func(args ...string) (int, string, string) { return call(t, append([]string{"verify"}, args...)...) }

	for _, args := range [][]string{reference, {"--cmdline-file", image + ".cmdline"}, append(reference, "--key-file", image+".key")} {
		if code, out, stderr := verify(append(args, image)...); code != fault.OK || stderr != "" || !strings.Contains(out, "every one of") {
			t.Fatalf("verify %s = %d, %q, %q", args, code, out, stderr)
		}
	}
	good, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	line, _ := os.ReadFile(image + ".cmdline")
	p, err := policy.Parse(string(line))
	if err != nil {
		t.Fatal(err)
	}
	data, tree := int(p.Image.DataSize()), int(p.Image.HashStart())*4096
	for what, at := range map[string]int{
		"LUKS2 header, first copy": 0, "LUKS2 header, second copy": 16384 + 5000, "LUKS2 keyslots": 40000,
		"encrypted data, byte 0 ": 1 << 20, "encrypted data, byte 4096 ": 1<<20 + 4096 + 7, "encrypted data": data - 1,
		"hash tree, level 2, block 0, ": tree, "hash tree, level 1, block 0, for the data blocks 0 to 127": tree + 4096,
		"hash tree": len(good) - 1, // padding
	} {
		broken := bytes.Clone(good)
		broken[at] ^= 4
		put(t, bad, string(broken))
		code, out, stderr := verify(append(reference, bad, "--key-file", image+".key")...)
		if code != fault.Tampered || out != "" || !strings.Contains(stderr, "1 block differs, ") || !strings.Contains(stderr, what) {
			t.Errorf("byte %d = %d, %q, %q; want 5, 1 block and %q", at, code, out, stderr, what)
		}
	}
	var v imageverify.Result
	if code, out, _ := verify(append(reference, bad, "--json")...); code != fault.Tampered || json.Unmarshal([]byte(out), &v) != nil || v.OK || v.First == nil {
		t.Errorf("verify --json = %d, %q", code, out)
	}

	put(t, bad, string(good[:len(good)-4096]))
	if code, _, stderr := verify(append(reference, bad)...); code != fault.Tampered {
		t.Errorf("shortened = %d, %q; want 5", code, stderr)
	}
	put(t, bad, string(good)+"more")
	if code, _, stderr := verify(append(reference, bad)...); code != fault.OK || !strings.Contains(stderr, "4 bytes after the image") {
		t.Errorf("longer = %d, %q; want 0 and a warning", code, stderr)
	}
	broken := bytes.Clone(good)
	broken[data+80] ^= 1
	put(t, bad, string(broken))
	if code, _, stderr := verify(append(reference, bad)...); code != fault.OK || !strings.Contains(stderr, "warning") {
		t.Errorf("another superblock = %d, %q; want 0 and a warning", code, stderr)
	}
	wrongType := put(t, filepath.Join(dir, "line"), strings.Replace(string(line), "rootfstype=squashfs", "rootfstype=ext4", 1))
	if code, _, stderr := verify(image, "--cmdline-file", wrongType, "--key-file", image+".key"); code != fault.Failed || !strings.Contains(stderr, "squashfs") {
		t.Errorf("another file system = %d, %q; want 1", code, stderr)
	}
	nul := put(t, filepath.Join(dir, "nul"), "")
	key, _ := os.ReadFile(image + ".key")
	put(t, nul, string(key)+"\x00")
	if code, out, stderr := verify(append(reference, image, "--key-file", nul)...); code != fault.OK || !strings.Contains(out, "squashfs of ") {
		t.Errorf("the key with a NUL = %d, %q, %q; want 0 and the file system", code, out, stderr)
	}
	other := put(t, filepath.Join(dir, "other"), strings.Repeat("o", 64))
	if code, _, stderr := verify(append(reference, image, "--key-file", other)...); code != fault.Secret || strings.Contains(stderr, "ooo") {
		t.Errorf("another key = %d, %q; want 4", code, stderr)
	}
	second := filepath.Join(dir, "second")
	sealOK(t, aRoot(t), "-o", second)
	if code, _, _ := verify(append(reference, second)...); code != fault.Tampered {
		t.Errorf("another image = %d; want 5", code)
	}
	for name, args := range map[string][]string{
		"no reference": {image}, "two references": append([]string{image, "--cmdline-file", image + ".cmdline"}, reference...),
		"no image": reference, "two images": append(reference, image, image),
	} {
		if code, _, stderr := verify(args...); code != fault.Usage {
			t.Errorf("%s = %d, %q; want 2", name, code, stderr)
		}
	}
	for name, path := range map[string]string{"folder": dir, "device": "/dev/zero", "absent": filepath.Join(dir, "absent")} {
		if code, _, stderr := verify(append(reference, path)...); code != fault.Failed {
			t.Errorf("%s = %d, %q; want 1", name, code, stderr)
		}
	}
}
