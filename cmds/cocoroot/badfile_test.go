package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// badFiles makes one of each file that no option should get.
func badFiles(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return map[string]string{
		"absent": filepath.Join(dir, "absent"),
		"folder": folder,
		"socket": l.Addr().String(),
		// Regular by its mode, and whoever reads it gets an error, root too.
		"unreadable": "/proc/self/mem",
		"endless":    "/dev/zero",
		"empty":      put(t, filepath.Join(dir, "empty"), ""),
		"junk":       put(t, filepath.Join(dir, "junk"), strings.Repeat("j", 5000)),
	}
}

// TestBadFiles gives each option that names a file each file that it cannot
// use: one error line, the documented exit code, in time, and nothing written.
func TestBadFiles(t *testing.T) {
	bad := badFiles(t)
	r := newRig(t, "0x7")
	fd := put(t, r.path("fd"), string(oracle.Vector(t, "amdsev.fd")))
	kernel := put(t, r.path("kernel"), "kernel")
	line := put(t, r.path("line"), "console=ttyS0\n")
	if code, _, stderr := call(t, "secret", "build", guid+"="+r.path("key"), "-o", r.path("table")); code != fault.OK {
		t.Fatal(stderr)
	}
	report := r.path("report")
	keys := []string{"--tik", r.path("vm_tik.bin"), "--tek", r.path("vm_tek.bin")}
	measurement := strings.Repeat("A", 64)
	// A verb and, last, the option that gets the bad file.
	for name, tc := range map[string]struct {
		args []string
		// fine are files that this option takes.
		fine string
	}{
		"measure --firmware":        {[]string{"measure", "--mode", "sev", "--firmware"}, ""},
		"measure --kernel":          {[]string{"measure", "--mode", "sev", "--firmware", fd, "--kernel"}, "empty junk"},
		"measure --initrd":          {[]string{"measure", "--mode", "sev", "--firmware", fd, "--kernel", kernel, "--initrd"}, "empty junk"},
		"measure --cmdline-file":    {[]string{"measure", "--mode", "sev", "--firmware", fd, "--kernel", kernel, "--cmdline-file"}, "empty"},
		"secret build":              {[]string{"secret", "build", "-o", "OUT", guid + "="}, ""},
		"secret build --firmware":   {[]string{"secret", "build", guid + "=" + r.path("key"), "-o", "OUT", "--firmware"}, ""},
		"secret inspect":            {[]string{"secret", "inspect"}, ""},
		"secret inspect --firmware": {[]string{"secret", "inspect", r.path("table"), "--firmware"}, ""},
		"secret session":            {[]string{"secret", "session", "-o", "OUT"}, ""},
		"secret session --amd-ca":   {[]string{"secret", "session", r.path("chain"), "-o", "OUT", "--amd-ca"}, ""},
		"secret packet --tik":       {[]string{"secret", "packet", guid + "=" + r.path("key"), "--tek", keys[3], "--measurement", measurement, "-o", "OUT", "--tik"}, ""},
		"secret packet --tek":       {[]string{"secret", "packet", guid + "=" + r.path("key"), "--tik", keys[1], "--measurement", measurement, "-o", "OUT", "--tek"}, ""},
		"secret packet --table":     {append([]string{"secret", "packet", "--measurement", measurement, "-o", "OUT"}, append(keys, "--table")...), ""},
		"release platform":          {[]string{"release", "platform", "-o", "OUT", "--timeout", "1s", "--qmp"}, ""},
		"release collect":           {[]string{"release", "collect", "-o", "OUT", "--timeout", "1s", "--qmp"}, ""},
		"release verify":            {append([]string{"release", "verify", "--digest", r.digest, "-o", "OUT"}, keys...), ""},
		"release verify --tik":      {[]string{"release", "verify", report, guid + "=" + r.path("key"), "--digest", r.digest, "-o", "OUT", "--tek", keys[3], "--tik"}, ""},
		"release inject":            {[]string{"release", "inject", "--qmp", bad["absent"]}, ""},
		"release run --qmp":         {append(r.owner("run", "--timeout", "1s"), "--qmp"), ""},
		"inspect":                   {[]string{"inspect"}, ""},
		"inspect --firmware":        {[]string{"inspect", r.path("table"), "--firmware"}, ""},
		"launch --firmware":         {[]string{"launch", "--simulate", "--kernel", kernel, "--initrd", kernel, "--cmdline-file", line, "--disk", kernel, "--firmware"}, ""},
		"launch --kernel":           {[]string{"launch", "--simulate", "--firmware", fd, "--initrd", kernel, "--cmdline-file", line, "--disk", bad["absent"], "--kernel"}, ""},
		"launch --cmdline-file":     {[]string{"launch", "--simulate", "--firmware", fd, "--kernel", kernel, "--initrd", kernel, "--disk", bad["absent"], "--cmdline-file"}, ""},
		"launch --secret":           {[]string{"launch", "--simulate", "--firmware", fd, "--kernel", kernel, "--initrd", kernel, "--cmdline-file", line, "--disk", kernel, "--qemu", bad["absent"], "--secret", guid + "="}, ""},
		"template --manifest":       {[]string{"template", "libvirt-sev-snp", "--vcpu-type", "EPYC-Milan", "-o", "OUT", "--firmware", fd, "--kernel", kernel, "--initrd", kernel, "--disk", kernel, "--manifest"}, ""},
		"dry run --cmdline-file":    {[]string{"launch", "--mode", "sev-snp", "--dry-run", "--qemu", bad["absent"], "--vcpu-type", "EPYC-Milan", "--firmware", fd, "--kernel", kernel, "--initrd", kernel, "--disk", kernel, "--cmdline-file"}, ""},
	} {
		for kind, path := range bad {
			t.Run(name+"/"+kind, func(t *testing.T) {
				checkBadFile(t, tc.args, path, strings.Contains(tc.fine, kind))
			})
		}
	}
}

// checkBadFile runs the verb in a folder of its own.
func checkBadFile(t *testing.T, args []string, path string, fine bool) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	var all []string
	for _, a := range args {
		all = append(all, strings.Replace(a, "OUT", filepath.Join(dir, "out"), 1))
	}
	if last := len(all) - 1; strings.HasSuffix(all[last], "=") {
		all[last] += path
	} else {
		all = append(all, path)
	}
	start := time.Now()
	code, stdout, stderr := call(t, all...)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if fine {
		if code != fault.OK || stderr != "" {
			t.Errorf("%q = %d, %q; want success", all, code, stderr)
		}
		return
	}
	if code != fault.Failed {
		t.Errorf("%q = %d; want %d", all, code, fault.Failed)
	}
	if n := strings.Count(stderr, "cocoroot: error: "); n != 1 || strings.Count(strings.SplitN(stderr, "cocoroot: error: ", 2)[1], "\n") > 2 {
		t.Errorf("stderr = %q; want one error line, and a hint at most after it", stderr)
	}
	if strings.Contains(stdout+stderr, passphrase) {
		t.Error("the secret is in the output")
	}
	if left := names(t, dir); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// TestDamagedInput has what is there, and is not what it should be.
func TestDamagedInput(t *testing.T) {
	r := newRig(t, "0x7")
	image := string(oracle.Vector(t, "amdsev.fd"))
	fd := put(t, r.path("fd"), image)
	cut := put(t, r.path("cut"), image[:len(image)-100])
	far := put(t, r.path("far"), farFooter(image))
	plain := put(t, r.path("plain"), string(oracle.Vector(t, "ovmfx64.fd")))
	kernel := put(t, r.path("kernel"), "kernel")
	line := put(t, r.path("line"), "console=ttyS0\n")
	lines := put(t, r.path("lines"), "console=ttyS0\nquiet\n")
	key15 := put(t, r.path("key15"), strings.Repeat("k", 15))
	key17 := put(t, r.path("key17"), strings.Repeat("k", 17))
	table := r.path("table")
	if code, _, stderr := call(t, "secret", "build", guid+"="+r.path("key"), "-o", table); code != fault.OK {
		t.Fatal(stderr)
	}
	long := put(t, r.path("long"), string(r.read("table"))+strings.Repeat("\x00", 3072))
	short := put(t, r.path("short"), string(r.read("table")[:50]))
	big := put(t, r.path("big"), strings.Repeat("b", 3072))
	tik, tek := r.path("vm_tik.bin"), r.path("vm_tek.bin")
	measurement := strings.Repeat("A", 64)
	packet := func(more ...string) []string {
		return append([]string{"secret", "packet", "--tik", tik, "--tek", tek, "--measurement", measurement, "-o", "OUT"}, more...)
	}
	launch := func(firmware string, more ...string) []string {
		return append([]string{"launch", "--simulate", "--firmware", firmware, "--kernel", kernel, "--initrd", kernel,
			"--cmdline-file", line, "--disk", kernel, "--qemu", r.path("absent")}, more...)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"measure cut firmware":         {[]string{"measure", "--mode", "sev", "--firmware", cut}, fault.Failed},
		"measure far footer":           {[]string{"measure", "--mode", "sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC", "--firmware", far}, fault.Failed},
		"measure kernel without room":  {[]string{"measure", "--mode", "sev", "--firmware", plain, "--kernel", kernel}, fault.Failed},
		"measure two lines":            {[]string{"measure", "--mode", "sev", "--firmware", fd, "--kernel", kernel, "--cmdline-file", lines}, fault.Failed},
		"build for cut firmware":       {[]string{"secret", "build", guid + "=" + r.path("key"), "-o", "OUT", "--firmware", cut}, fault.Failed},
		"build for far footer":         {[]string{"secret", "build", guid + "=" + r.path("key"), "-o", "OUT", "--firmware", far}, fault.Failed},
		"build for no area":            {[]string{"secret", "build", guid + "=" + r.path("key"), "-o", "OUT", "--firmware", plain}, fault.Failed},
		"build longer than the area":   {[]string{"secret", "build", guid + "=" + big, "-o", "OUT", "--firmware", fd}, fault.Failed},
		"inspect longer than the area": {[]string{"secret", "inspect", long, "--firmware", fd}, fault.Failed},
		"inspect a short table":        {[]string{"inspect", short}, fault.Failed},
		"inspect cut firmware":         {[]string{"inspect", cut}, fault.Failed},
		"inspect far footer":           {[]string{"inspect", far}, fault.Failed},
		"packet of a long table":       {packet("--table", long), fault.Failed},
		"packet of a short table":      {packet("--table", short), fault.Failed},
		"packet of a key":              {packet("--table", tik), fault.Failed},
		"packet with a TIK of 15":      {packet("--table", table, "--tik", key15), fault.Failed},
		"packet with a TEK of 17":      {packet("--table", table, "--tek", key17), fault.Failed},
		"packet, measurement cut":      {packet("--table", table, "--measurement", measurement[:60]), fault.Usage},
		"packet, measurement junk":     {packet("--table", table, "--measurement", strings.Repeat("*", 64)), fault.Usage},
		"packet for far footer":        {packet("--table", table, "--firmware", far), fault.Failed},
		"session of a short chain":     {[]string{"secret", "session", put(t, r.path("c1"), string(r.read("chain")[:3000])), "-o", "OUT"}, fault.Failed},
		"session of a key":             {[]string{"secret", "session", tik, "-o", "OUT"}, fault.Failed},
		"launch with cut firmware":     {launch(cut), fault.Failed},
		"launch with far footer":       {launch(far), fault.Failed},
		"launch with no area":          {launch(plain), fault.Failed},
		"launch with a long secret":    {launch(fd, "--secret", guid+"="+big), fault.Failed},
		"launch with two lines":        {launch(fd, "--cmdline-file", lines), fault.Failed},
		"dry run without QEMU":         {launch(fd, "--dry-run"), fault.Failed},
		"dry run, two lines":           {launch(fd, "--dry-run", "--cmdline-file", lines), fault.Failed},
	} {
		t.Run(name, func(t *testing.T) { checkDamaged(t, tc.args, tc.code) })
	}
}

func checkDamaged(t *testing.T, args []string, want int) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	var all []string
	for _, a := range args {
		all = append(all, strings.Replace(a, "OUT", filepath.Join(dir, "out"), 1))
	}
	code, stdout, stderr := call(t, all...)
	if code != want || strings.Count(stderr, "cocoroot: error: ") != 1 {
		t.Errorf("%q = %d, %q; want %d and one error line", all, code, stderr, want)
	}
	if strings.Contains(stdout+stderr, passphrase) {
		t.Error("the secret is in the output")
	}
	if left := names(t, dir); left != "" {
		t.Errorf("left behind: %s", left)
	}
}
