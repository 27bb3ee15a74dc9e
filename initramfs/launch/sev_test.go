package launch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// confidential returns a launch of the mode on hardware.
func confidential(m Mode) Config {
	s := &SEV{Mode: m, Policy: m.Policy(), CBit: 51, ReducedPhysBits: 1, CPUType: "EPYC-Milan"}
	if m != ModeSNP {
		s.Session, s.DHCert = "/vm/a,session.b64", "/vm/godh.b64"
	}
	return Config{
		Cmdline: "console=ttyS0, quiet", Memory: 2048, CPUs: 2, Accel: "kvm", SEV: s,
		Disks: []Disk{{Path: "/images/a,b.img", Serial: "root"}}, QMPSocket: "/run/vm/qmp",
	}
}

func TestConfidentialRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		mode   Mode
		change func(*Config)
	}{
		"secret from the host":      {ModeES, func(c *Config) { c.SecretTable = []byte{1} }},
		"hashes from the host":      {ModeES, func(c *Config) { c.HashesTable = []byte{} }},
		"TCG":                       {ModeES, func(c *Config) { c.Accel = "tcg" }},
		"too many CPUs":             {ModeSNP, func(c *Config) { c.CPUs = measure.MaxCPUs + 1 }},
		"no socket for the release": {ModeSEV, func(c *Config) { c.QMPSocket = "" }},
		"no mode":                   {"", func(c *Config) {}},
		"C-bit too low":             {ModeES, func(c *Config) { c.SEV.CBit = 31 }},
		"C-bit too high":            {ModeES, func(c *Config) { c.SEV.CBit = 64 }},
		"no reduced bits":           {ModeES, func(c *Config) { c.SEV.ReducedPhysBits = 0 }},
		"init2 without ES":          {ModeSEV, func(c *Config) { c.SEV.VMType = measure.Init2 }},
		"init2 with SNP":            {ModeSNP, func(c *Config) { c.SEV.VMType = measure.Init2 }},
		"session only":              {ModeES, func(c *Config) { c.SEV.DHCert = "" }},
		"certificate only":          {ModeES, func(c *Config) { c.SEV.Session = "" }},
		"session with SNP":          {ModeSNP, func(c *Config) { c.SEV.Session, c.SEV.DHCert = "a", "b" }},
		"channel with ES":           {ModeES, func(c *Config) { c.Channel = policy.Channel{Kind: policy.TCP} }},
		"no socket for the channel": {ModeSNP, func(c *Config) { c.Channel = policy.Channel{Kind: policy.Serial, Name: "ttyS2"} }},
		"socket without a channel":  {ModeSNP, func(c *Config) { c.ChannelSocket = "/run/vm/owner" }},
		"socket for TCP":            {ModeSNP, func(c *Config) { c.Channel.Kind, c.ChannelSocket = policy.TCP, "/run/vm/owner" }},
		"channel on the console":    {ModeSNP, func(c *Config) { *c = asking(policy.Channel{Kind: policy.Serial, Name: "ttyS0"}) }},
		"host data with ES":         {ModeES, func(c *Config) { c.SEV.HostData[0] = 1 }},
		"ID block with ES":          {ModeES, func(c *Config) { c.SEV.ID = new(ID) }},
		"unknown CPU":               {ModeES, func(c *Config) { c.SEV.CPUType = "EPYC-Bologna" }},
		"option after the CPU":      {ModeES, func(c *Config) { c.SEV.CPUType = "EPYC,x=1" }},
		"ES policy for SEV":         {ModeSEV, func(c *Config) { c.SEV.Policy = 7 }},
		"SEV policy for ES":         {ModeES, func(c *Config) { c.SEV.Policy = 3 }},
		"SNP policy for ES":         {ModeES, func(c *Config) { c.SEV.Policy = 1<<32 | 7 }},
		"ES policy for SNP":         {ModeSNP, func(c *Config) { c.SEV.Policy = 7 }},
	} {
		c := confidential(tc.mode)
		c.Firmware, c.Kernel = "f", "k"
		tc.change(&c)
		if _, err := c.withDefaults(); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: error = %v; want ErrConfig", name, err)
		}
	}
	for _, m := range []Mode{ModeSEV, ModeES, ModeSNP} {
		c := confidential(m)
		c.Firmware, c.Kernel, c.Accel = "f", "k", ""
		if got, err := c.withDefaults(); err != nil || got.Accel != "kvm" {
			t.Errorf("%s: %v, accelerator %q; want kvm", m, err, got.Accel)
		}
		if parsed, err := ParseMode(string(m)); err != nil || parsed != m {
			t.Errorf("ParseMode(%s) = %v, %v", m, parsed, err)
		}
		c.SEV.CPUType = "host"
		if err := c.SEV.check(); err != nil {
			t.Errorf("%s: -cpu host: %v", m, err)
		}
	}
}

func TestWeakPolicy(t *testing.T) {
	for _, tc := range []struct {
		mode   Mode
		policy uint64
		want   bool
	}{
		{ModeSEV, 3, false}, {ModeSEV, 1, true}, {ModeSEV, 2, true}, {ModeES, 7, false}, {ModeES, 0xf, false}, {ModeES, 5, true}, {ModeES, 6, true},
		{ModeSNP, 0x30000, false}, {ModeSNP, 0x20000, false}, {ModeSNP, 0xb0000, true},
	} {
		if got := (SEV{Mode: tc.mode, Policy: tc.policy}).Weak(); got != tc.want {
			t.Errorf("%s with policy %#x: weak = %v", tc.mode, tc.policy, got)
		}
	}
}

func TestVersionForMode(t *testing.T) {
	es2 := SEV{Mode: ModeES, VMType: measure.Init2}
	for _, tc := range []struct {
		s    SEV
		v    Version
		want error
	}{
		{SEV{Mode: ModeSEV}, Version{7, 1}, ErrQEMU}, {SEV{Mode: ModeES}, Version{7, 2}, nil}, {SEV{Mode: ModeSNP}, Version{9, 0}, ErrQEMU},
		{SEV{Mode: ModeSNP}, Version{9, 1}, nil}, {es2, Version{9, 0}, ErrQEMU}, {es2, Version{10, 0}, nil},
	} {
		if err := tc.s.CheckVersion(tc.v); !errors.Is(err, tc.want) {
			t.Errorf("%s on %v: %v; want %v", tc.s.Mode, tc.v, err, tc.want)
		}
	}
}

// A launch with a QEMU that is too old ends before QEMU is started.
func TestOldQEMU(t *testing.T) {
	c := confidential(ModeSNP)
	paper := onPaper(t)
	c.Firmware, c.Kernel = paper.Firmware, paper.Kernel
	c.QEMU = script(t, "exit 1") // says that it is 7.2
	if _, err := CommandLine(c, Version{7, 2}); !errors.Is(err, ErrQEMU) {
		t.Errorf("CommandLine error = %v; want ErrQEMU", err)
	}
	if _, err := Run(t.Context(), c, nil); !errors.Is(err, ErrQEMU) {
		t.Errorf("Run error = %v; want ErrQEMU", err)
	}
}

// host is the root of a machine with everything.
func host() fstest.MapFS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return fstest.MapFS{
		"sys/module/kvm_amd/parameters/sev": file("Y\n"), "sys/module/kvm_amd/parameters/sev_es": file("Y\n"),
		"sys/module/kvm_amd/parameters/sev_snp": file("1\n"), "dev/kvm": file(""), "dev/sev": file(""),
	}
}

func TestCheckHost(t *testing.T) {
	const snp = "sys/module/kvm_amd/parameters/sev_snp"
	for _, m := range []Mode{ModeSEV, ModeES, ModeSNP} {
		if err := CheckHost(host(), m); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		if err := CheckHost(fstest.MapFS{}, m); !errors.Is(err, ErrNoSEV) {
			t.Errorf("%s on an empty host: %v; want ErrNoSEV", m, err)
		}
	}
	for name, change := range map[string]func(fstest.MapFS){
		"/dev/sev":   func(h fstest.MapFS) { delete(h, "dev/sev") },
		"/dev/kvm":   func(h fstest.MapFS) { delete(h, "dev/kvm") },
		"no /" + snp: func(h fstest.MapFS) { delete(h, snp) },
		`is "N"`:     func(h fstest.MapFS) { h[snp] = &fstest.MapFile{Data: []byte("N\n")} },
	} {
		h := host()
		change(h)
		err := CheckHost(h, ModeSNP)
		if !errors.Is(err, ErrNoSEV) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), ";") {
			t.Errorf("%s: %v; want ErrNoSEV with only that", name, err)
		}
	}
	h := host()
	delete(h, snp)
	if err := CheckHost(h, ModeES); err != nil {
		t.Errorf("sev-es on a host without SNP: %v", err)
	}
}

func TestCheckSocket(t *testing.T) {
	dir := t.TempDir()
	for mode, good := range map[os.FileMode]bool{0o700: true, 0o750: false, 0o701: false, 0o722: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := CheckSocket(filepath.Join(dir, "qmp")); (err == nil) != good || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("in a folder of mode %o: %v", mode, err)
		}
	}
	if err := CheckSocket(filepath.Join(dir, "absent", "qmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
}

// The processor is asked as the kernel asks it: /proc/cpuinfo has its name, which
// is in functions 0x80000002 to 0x80000004.
func TestCPUID(t *testing.T) {
	var name []byte
	for function := uint32(0x80000002); function <= 0x80000004; function++ {
		for _, r := range registers(function) {
			name = binary.LittleEndian.AppendUint32(name, r)
		}
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if want := string(bytes.TrimSpace(bytes.Trim(name, "\x00"))); want == "" || !strings.Contains(string(text), "model name\t: "+want+"\n") {
		t.Errorf("the processor says that it is %q, and /proc/cpuinfo has another name", want)
	}
	if c := CBit(); c != 0 && c < 32 || c > 63 {
		t.Errorf("CBit = %d; want 0 or an address bit above 31", c)
	}
}

func registers(function uint32) []uint32 {
	a, b, c, d := cpuid(function)
	return []uint32{a, b, c, d}
}

// onTCG returns the arguments with the accelerator that every machine has.
func onTCG(args []string) []string {
	args = slices.Clone(args)
	args[slices.Index(args, "-accel")+1] = "tcg"
	return args
}

// TestQEMUUnderstands gives the arguments to QEMU's own parser. Without SEV,
// QEMU has to end where it wants the hardware, and no earlier.
func TestQEMUUnderstands(t *testing.T) {
	fw := firmware(t)
	version, err := QEMUVersion(t.Context(), "qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	kernel := write(t, "kernel", testKernel("x", powerOff))
	disk := write(t, "disk", make([]byte, 4096))
	for _, m := range []Mode{ModeSEV, ModeES, ModeSNP} {
		c := confidential(m)
		c.Firmware, c.Kernel, c.Disks[0].Path, c.Memory = fw, kernel, disk, 256
		c.QMPSocket = filepath.Join(t.TempDir(), "q,m,p")
		if m != ModeSNP {
			c.SEV.Session, c.SEV.DHCert = write(t, "a,session", nil), write(t, "dh", nil)
		}
		words, err := CommandLine(c, version)
		if m == ModeSNP && !version.AtLeast(9, 1) {
			if !errors.Is(err, ErrQEMU) {
				t.Errorf("%s on %v: %v; want ErrQEMU", m, version, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) string {
			ctx := within(t, time.Minute)
			out, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
			if err == nil || ctx.Err() != nil {
				t.Errorf("%s: QEMU ended with %v; want a refusal", m, err)
			}
			return string(out)
		}
		args := onTCG(words[1:])
		want := "accelerator does not support confidential guest sev-guest"
		switch {
		case m == ModeSNP:
			want = "KVM required"
		case !version.AtLeast(9, 1):
			want = "machine->cgs->ready" // an assertion, in 7.2
		}
		if out := run(args...); !strings.Contains(out, want) {
			t.Errorf("%s: QEMU says %q; want %q", m, out, want)
		}
		object := slices.Index(args, c.SEV.object(version))
		broken := slices.Clone(args)
		broken[object] += ",nonsense=1"
		if out := run(broken...); !strings.Contains(out, "nonsense") {
			t.Errorf("%s: QEMU says %q of a wrong option", m, out)
		}

		// What follows the object is read only where it works: the
		// same machine without it, which waits as -S says.
		plain := slices.Delete(slices.Clone(args), object-1, object+1)
		machine := slices.Index(plain, "-machine") + 1
		plain[machine] = strings.Replace(plain[machine], "confidential-guest-support=sev0,", "", 1)
		waits(t, c, plain, c.SEV.TakesSecret())
	}
}

// waits starts QEMU and sees over the QMP socket that it made the machine.
func waits(t *testing.T, c Config, args []string, stopped bool) {
	t.Helper()
	cmd := exec.CommandContext(within(t, 2*time.Minute), "qemu-system-x86_64", args...)
	var words tail
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	ctx := within(t, time.Minute)
	for {
		client, err := qmp.Dial(ctx, c.QMPSocket)
		if err == nil {
			defer client.Close()
			var status struct{ Status string }
			if err := client.Execute(ctx, "query-status", nil, &status); err != nil || (status.Status == "prelaunch") != stopped {
				t.Errorf("%s: QEMU's status is %q, %v; want it stopped: %v", c.SEV.Mode, status.Status, err, stopped)
			}
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: QEMU made no machine: %s", c.SEV.Mode, words)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestWaitsForRelease runs a launch on hardware with the real QEMU, behind a
// script that takes the hardware out of the command. The guest has to stand
// still until somebody else says cont, and then finds, without hardware that
// writes it, no hashes table.
func TestWaitsForRelease(t *testing.T) {
	oracle.Tool(t, "qemu-system-x86_64")
	c := confidential(ModeES)
	c.Firmware, c.Kernel, c.Memory = firmware(t), write(t, "kernel", testKernel("x", powerOff)), 512
	c.Disks, c.QMPSocket = nil, filepath.Join(t.TempDir(), "qmp")
	c.QEMU = write(t, "qemu", []byte(`#!/bin/sh
for a; do
	shift
	case $a in
	kvm) a=tcg ;;
	sev-*) a=rng-builtin,id=sev0 ;;
	q35,*) a=q35,smm=off,memory-backend=ram0 ;;
	esac
	set -- "$@" "$a"
done
exec qemu-system-x86_64 "$@"
`))
	if err := os.Chmod(c.QEMU, 0o700); err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	c.OnStart = func(context.Context, *qmp.Client) error { close(started); return nil }
	ended := make(chan error, 1)
	ctx := within(t, 5*time.Minute)
	go func() {
		_, err := Run(ctx, c, nil)
		ended <- err
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	time.Sleep(time.Second) // what would start it now starts it too early
	client, err := qmp.Dial(ctx, c.QMPSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var status struct{ Status string }
	if err := client.Execute(ctx, "query-status", nil, &status); err != nil || status.Status != "prelaunch" {
		t.Errorf("before the release the guest is %q, %v; want prelaunch", status.Status, err)
	}
	if err := client.Execute(ctx, "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrNotBooted) {
		t.Errorf("Run error = %v; want ErrNotBooted", err)
	}
}
