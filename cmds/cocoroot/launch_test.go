package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
)

// hardware are the arguments of a launch on SEV hardware.
func (r *guestRig) hardware(mode string, more ...string) []string {
	return slices.Concat([]string{"launch", "--mode", mode, "--cmdline-file", r.cmdline, "--qmp-socket", filepath.Join(r.dir, "qmp")}, r.with(mode), more)
}

func TestLaunchOptions(t *testing.T) {
	r := newGuestRig(t)
	r.shared = append(r.shared, "--qemu", "/nonexistent/qemu") // not reached
	for name, args := range map[string][]string{
		"both":                   r.hardware("sev-es", "--simulate"),
		"neither":                slices.Concat([]string{"launch", "--cmdline-file", r.cmdline}, r.with("sev-snp")),
		"unknown mode":           r.hardware("tdx"),
		"secret on the host":     r.hardware("sev-es", "--secret", guid+"="+r.cmdline),
		"accelerator":            r.hardware("sev-es", "--accel", "tcg"),
		"simulated policy":       slices.Concat([]string{"launch", "--simulate", "--cmdline-file", r.cmdline}, r.shared, []string{"--policy", "7"}),
		"no session":             r.hardware("sev-es", "--session-file", ""),
		"no certificate":         r.hardware("sev", "--dh-cert-file", ""),
		"session for SNP":        r.hardware("sev-snp", "--session-file", r.session, "--dh-cert-file", r.dhCert, "--dry-run"),
		"no socket":              r.hardware("sev-es", "--qmp-socket", ""),
		"no type":                r.hardware("sev-es", "--vcpu-type", ""),
		"unknown type":           r.hardware("sev-snp", "--vcpu-type", "EPYC-Bologna", "--dry-run"),
		"policy of another mode": r.hardware("sev", "--policy", "0x7", "--dry-run"),
		"no policy":              r.hardware("sev", "--policy", "strict"),
		"VM type":                r.hardware("sev-es", "--vm-type", "x"),
		"init2 without ES":       r.hardware("sev", "--vm-type", "init2", "--dry-run"),
		"C-bit":                  r.hardware("sev-es", "--cbitpos", "5", "--dry-run"),
		"argument":               r.hardware("sev-es", "x"),
	} {
		code, out, stderr := call(t, args...)
		if code != fault.Usage || out != "" || strings.Count(stderr, "cocoroot: error: ") != 1 {
			t.Errorf("%s = %d, %q, %q; want %d and one error", name, code, out, stderr, fault.Usage)
		}
	}
}

// A host without SEV is told what to check; printing the command needs none.
func TestLaunchWithoutSEV(t *testing.T) {
	oracle.Tool(t, "qemu-system-x86_64")
	without := launch.CheckHost(os.DirFS("/"), launch.ModeES) != nil // where it is there, only the printing is tried
	r := newGuestRig(t)
	code, out, stderr := fault.Failed, "", ""
	if without {
		code, out, stderr = call(t, r.hardware("sev-es")...)
	}
	if without && (code != fault.Failed || out != "" || !strings.Contains(stderr, "/dev/sev") || !strings.Contains(stderr, "hint: ")) {
		t.Errorf("launch = %d, %q, %q; want what is missing", code, out, stderr)
	}
	code, out, stderr = call(t, r.hardware("sev-es", "--dry-run", "--policy", "0x4")...)
	if code != fault.OK || !strings.Contains(out, "policy=0x4,kernel-hashes=on") || strings.Count(out, "\n") != 1 {
		t.Errorf("launch --dry-run = %d, %q", code, out)
	}
	if without && (strings.Count(stderr, "cocoroot: warning: ") != 2 || !strings.Contains(stderr, "cbitpos=51")) || !strings.Contains(stderr, "0x4 protects less than 0x7") {
		t.Errorf("stderr = %q; want a warning of the C-bit and one of the policy", stderr)
	}
	if code, cpus, _ := call(t, slices.Concat(r.hardware("sev-es", "--dry-run", "--policy", "0x4"), []string{"--cpus", "4"})...); code != fault.OK || cpus != out {
		t.Errorf("with --cpus 4 = %d, %q; want the same", code, cpus)
	}
}

// Firmware without room for the hashes is refused.
func TestLaunchFirmware(t *testing.T) {
	oracle.Tool(t, "qemu-system-x86_64")
	r := newGuestRig(t)
	code, _, stderr := call(t, r.hardware("sev-es", "--firmware", r.cmdline, "--dry-run", "--firmware-unchecked")...)
	if code != fault.Failed || !strings.Contains(stderr, "AmdSev") {
		t.Errorf("junk firmware = %d, %q", code, stderr)
	}
}

// What a host lacks is said with the next step.
func TestLaunchErrorsHaveHints(t *testing.T) {
	for _, err := range []error{launch.ErrNoSEV, launch.ErrQEMU, ovmf.ErrNoArea, ovmf.ErrNoFooter} {
		f, ok := errors.AsType[*fault.Error](fmt.Errorf("cannot launch: %w", err))
		if !ok || f.Code != fault.Failed || f.Hint == "" {
			t.Errorf("%v = %+v; want exit code %d and a hint", err, f, fault.Failed)
		}
	}
}

// What a program prints, or a client has it print, is not taken for init's or the
// kernel's word once the program has told its exit code.
func TestJudge(t *testing.T) {
	exit := func(n int) *int { return &n }
	said := &launch.Fatal{Code: "VERITY", Text: "the disk does not hold the measured image"}
	for _, tc := range []struct {
		o    launch.Outcome
		want int
	}{
		{launch.Outcome{Exit: exit(0), Fatal: said}, fault.OK},
		{launch.Outcome{Exit: exit(7), Fatal: said}, 7},
		{launch.Outcome{Exit: exit(7), Panic: "Kernel panic - not syncing: dm-verity device corrupted"}, 7},
		{launch.Outcome{Exit: exit(125), Fatal: said}, 125},
		{launch.Outcome{Fatal: said}, fault.Tampered},
		{launch.Outcome{Panic: "Kernel panic - not syncing: dm-verity device corrupted"}, fault.Tampered},
		{launch.Outcome{Reason: "guest-shutdown"}, fault.Failed},
	} {
		o := &launchOptions{}
		o.config.Program = true
		if err := judge(tc.o, nil, o); fault.Code(err) != tc.want {
			t.Errorf("judge(%+v) = %v, code %d; want %d", tc.o, err, fault.Code(err), tc.want)
		}
	}
}

// A program that was not started ended with no code of its own.
func TestJudgeNotStarted(t *testing.T) {
	code := 125
	err := judge(launch.Outcome{Exit: &code}, nil, &launchOptions{})
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != code || !strings.Contains(err.Error(), "was not started") || strings.Contains(f.Hint, "own code") {
		t.Errorf("judge = %+v; want that it was not started", f)
	}
}
