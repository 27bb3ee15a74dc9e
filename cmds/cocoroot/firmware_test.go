package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// holes are words of each hole that a warning has to name.
var holes = [...]string{"etc/boot/shim", "Driver####", "X-PciMmio64Mb", "ACPI tables"}

// warnsOf reports whether text names all of the holes.
func warnsOf(text string) bool {
	return !slices.ContainsFunc(holes[:], func(h string) bool { return !strings.Contains(text, h) })
}

// Firmware of another's is said to be so, only on standard error: what a
// script reads is the same with each firmware.
func TestForeignFirmware(t *testing.T) {
	r := newGuestRig(t)
	fd := r.shared[1]
	socket := filepath.Join(r.dir, "qmp")
	// Two bytes more or less make it another's; so does a tool that knows none.
	other := "00" + strings.Repeat("11", 31) + " other"
	for name, args := range map[string][]string{
		"measure":           {"measure", "--mode", "sev", "--firmware", fd},
		"inspect":           {"inspect", fd},
		"template":          slices.Concat([]string{"template", "qemu-sev-es", "--manifest", r.manifest, "--qmp-socket", "/run/vm/qmp", "--qemu-version", "10.0", "--firmware-unchecked"}, r.with("sev-es")),
		"launch --mode":     r.hardware("sev-es", "--dry-run", "--firmware-unchecked", "--cbitpos", "51", "--reduced-phys-bits", "1"),
		"launch --simulate": {"launch", "--simulate", "--firmware", fd, "--kernel", fd, "--initrd", fd, "--cmdline-file", r.cmdline, "--disk", fd, "--qemu", socket},
	} {
		_, own, stderr := call(t, args...)
		if warnsOf(stderr) {
			t.Errorf("%s with our firmware warns: %q", name, stderr)
		}
		for _, built := range []string{other, ""} {
			_, foreign, stderr := callWith(t, built, args...)
			if !warnsOf(stderr) || !strings.Contains(stderr, "cocoroot: warning: ") {
				t.Errorf("%s, firmware %q, says %q; want a warning that names the holes", name, built, stderr)
			}
			if name != "inspect" && foreign != own {
				t.Errorf("%s, firmware %q, prints %q; want %q as with ours", name, built, foreign, own)
			}
		}
	}
}

// What leads to a launch on hardware refuses such firmware, and firmware that
// is not here to be looked at.
func TestForeignFirmwareRefused(t *testing.T) {
	oracle.Tool(t, "qemu-system-x86_64")
	r := newGuestRig(t)
	template := func(more ...string) []string {
		return slices.Concat([]string{"template", "libvirt-sev-es", "--manifest", r.manifest}, r.with("sev-es"), more)
	}
	for name, args := range map[string][]string{
		"launch":   r.hardware("sev-es", "--dry-run"),
		"template": template(),
	} {
		if code, _, stderr := call(t, args...); code != fault.OK {
			t.Errorf("%s with our firmware = %d, %q", name, code, stderr)
		}
		code, out, stderr := callWith(t, "", args...)
		if code != fault.Failed || out != "" || !warnsOf(stderr) || !strings.Contains(stderr, "hint: ") || !strings.Contains(stderr, "--firmware-unchecked") {
			t.Errorf("%s with another = %d, %q, %q; want a refusal", name, code, out, stderr)
		}
	}
	absent := template("--firmware", "/nonexistent/fd")
	if code, out, stderr := call(t, absent...); code != fault.Failed || out != "" || !strings.Contains(stderr, "--firmware-unchecked") {
		t.Errorf("template with absent firmware = %d, %q, %q; want a refusal", code, out, stderr)
	}
	if code, out, _ := call(t, append(absent, "--firmware-unchecked")...); code != fault.OK || !strings.Contains(out, "/nonexistent/fd") {
		t.Errorf("template with absent firmware, unchecked = %d, %q", code, out)
	}
	code, _, stderr := call(t, "launch", "--simulate", "--firmware-unchecked", "--firmware", r.shared[1], "--kernel", r.cmdline, "--initrd", r.cmdline, "--cmdline-file", r.cmdline, "--disk", r.cmdline)
	if code != fault.Usage || !strings.Contains(stderr, "is for --mode") {
		t.Errorf("--simulate --firmware-unchecked = %d, %q", code, stderr)
	}
}

// inspect says whose firmware it is, and from what it was built.
func TestInspectOrigin(t *testing.T) {
	fd := put(t, filepath.Join(t.TempDir(), "fd"), string(oracle.Vector(t, "amdsev.fd")))
	_, out, _ := call(t, "inspect", fd)
	if !strings.Contains(out, "origin: cocoroot's own, vectors\n") {
		t.Errorf("inspect of our firmware = %q", out)
	}
	_, out, _ = callWith(t, "", "inspect", fd)
	if !strings.Contains(out, "origin: another's\n") {
		t.Errorf("inspect of another's firmware = %q", out)
	}
	_, out, _ = call(t, "inspect", fd, "--json")
	if !strings.Contains(out, `"origin": "cocoroot's own, vectors"`) {
		t.Errorf("inspect --json = %q", out)
	}
}
