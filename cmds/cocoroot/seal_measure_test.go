package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/manifest"
)

// The line says whom the guest asks, and how; without an owner it says nothing
// of it.
func TestSealForOwner(t *testing.T) {
	me := filepath.Join(t.TempDir(), "me")
	if code, _, stderr := call(t, "owner", "new", "-o", me); code != fault.OK {
		t.Fatal(stderr)
	}
	public, err := os.ReadFile(me + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	line := func(args ...string) string {
		image := filepath.Join(t.TempDir(), "image")
		sealOK(t, append([]string{aRoot(t), "-o", image}, args...)...)
		b, err := os.ReadFile(image + ".cmdline")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	owner := " cocoroot.owner=" + strings.TrimSpace(string(public))
	for channel, args := range map[string][]string{
		"serial:ttyS2":     {"--owner", me + ".pub"},
		"tcp:10.0.2.2:443": {"--owner", me + ".pub", "--channel", "tcp:10.0.2.2:443"},
	} {
		if got := line(args...); !strings.Contains(got, owner+" cocoroot.channel="+channel) {
			t.Errorf("%q: %q", args, got)
		}
	}
	if got := line(); strings.Contains(got, "cocoroot.owner") || strings.Contains(got, "cocoroot.channel") {
		t.Errorf("without an owner: %q", got)
	}
	for name, args := range map[string][]string{
		"the private half": {"--owner", me + ".key"},
		"no owner":         {"--channel", "serial:ttyS2"},
		"no such channel":  {"--owner", me + ".pub", "--channel", "serial:sda"},
	} {
		code, _, stderr := call(t, append([]string{"seal", "/nonexistent", "-o", me + ".image"}, args...)...)
		if code != fault.Usage {
			t.Errorf("%s: %d, %q; want a usage error", name, code, stderr)
		}
	}
}

// The manifest has the digests that cocoroot measure computes later.
func TestSealMeasures(t *testing.T) {
	fd, empty, _ := measureFiles(t)
	image := filepath.Join(t.TempDir(), "image")
	blobs := []string{"--firmware", fd, "--kernel", empty, "--initrd", empty}
	out := sealOK(t, append([]string{aRoot(t), "-o", image, "--measure", "sev-snp:4:EPYC-Milan", "--measure", "sev"}, blobs...)...)
	b, err := os.ReadFile(image + ".manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(b)
	if err != nil || len(m.Digests) != 2 {
		t.Fatalf("the manifest: %v, %+v", err, m.Digests)
	}
	for i, mode := range []string{"sev-snp", "sev"} {
		args := append([]string{"measure", "--mode", mode, "--cmdline-file", image + ".cmdline"}, blobs...)
		if mode != "sev" {
			args = append(args, "--vcpus", "4", "--vcpu-type", "EPYC-Milan")
		}
		code, want, stderr := call(t, args...)
		if got := m.Digests[i]; code != fault.OK || got.Digest+"\n" != want || got.Mode != mode || !strings.Contains(out, got.Digest) {
			t.Errorf("%s: %+v, said %q; want %q (%d, %s)", mode, got, out, want, code, stderr)
		}
	}
	for name, args := range map[string][]string{
		"no firmware":      {"--measure", "sev", "--kernel", empty, "--initrd", empty},
		"nothing measured": blobs,
		"no such mode":     append([]string{"--measure", "tdx:1:EPYC"}, blobs...),
		"no vCPUs":         append([]string{"--measure", "sev-snp"}, blobs...),
		"no such type":     append([]string{"--measure", "sev-snp:1:EPYC-Bologna"}, blobs...),
		"no number":        append([]string{"--measure", "sev-snp:x:EPYC"}, blobs...),
	} {
		// The root is not there: what is wrong shows before it is read.
		code, _, stderr := call(t, append([]string{"seal", "/nonexistent", "-o", image}, args...)...)
		if code != fault.Usage {
			t.Errorf("%s: %d, %q; want a usage error", name, code, stderr)
		}
	}
}
