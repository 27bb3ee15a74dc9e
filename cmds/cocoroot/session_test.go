package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/sevcert"
)

// A host shows whichever chip's certificates it likes.
func TestGeneration(t *testing.T) {
	for _, tt := range []struct {
		found, want string
		ok          bool
	}{
		{"Milan", "", true}, {"Rome", "", true}, {sevcert.Naples, "", false},
		{"Milan", "Milan", true}, {"Rome", "Milan", false}, {sevcert.Naples, "Milan", false}, {sevcert.Naples, "Naples", true},
	} {
		if err := release.CheckGeneration(tt.found, tt.want); (err == nil) != tt.ok {
			t.Errorf("release.CheckGeneration(%q, %q) = %v; want ok %v", tt.found, tt.want, err, tt.ok)
		}
	}
	p, dir := newPlatform(t), t.TempDir()
	chain := put(t, filepath.Join(dir, "chain"), string(p.chain()))
	code, _, stderr := call(t, "secret", "session", chain, "--amd-root", p.Root, "--generation", "Milan", "-o", filepath.Join(dir, "vm"))
	if code != fault.Failed || !strings.Contains(stderr, "not of Milan") || names(t, dir) != "chain" {
		t.Errorf("session with a platform of another root = %d, %q, files %s", code, stderr, names(t, dir))
	}
}

// The platform's certificates come out of QEMU; the CEK with AMD's signature
// comes from elsewhere.
func TestReleasePlatform(t *testing.T) {
	p := newPlatform(t)
	dir := t.TempDir()
	chain, vm := filepath.Join(dir, "chain"), filepath.Join(dir, "vm")
	q := &fakeQEMU{PDH: p.PDH, Chain: slices.Concat(p.PEK, p.OCA, p.RawCEK)}
	code, out, stderr := call(t, "release", "platform", "--qmp", q.Serve(t), "-o", chain)
	if code != fault.OK || !strings.Contains(out, "cek/id/000102") {
		t.Fatalf("release platform = %d, %q, %q", code, out, stderr)
	}
	ca := put(t, filepath.Join(dir, "ca"), string(p.ASK)+string(p.ARK))
	args := []string{"secret", "session", chain, "--amd-ca", ca, "--amd-root", p.Root, "-o", vm}
	if code, _, stderr := call(t, args...); code != fault.Failed || !strings.Contains(stderr, "kdsintf.amd.com") {
		t.Errorf("session with the chip's own CEK = %d, %q; want where to get the signed one", code, stderr)
	}
	if code, _, stderr := call(t, append(args, put(t, filepath.Join(dir, "cek"), string(p.CEK)))...); code != fault.OK {
		t.Errorf("session with the signed CEK = %d, %q", code, stderr)
	}
}
