package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// call runs the tool as main does and returns its exit code and output. It
// knows the firmware of the vectors as its own.
func call(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	return callWith(t, "1320877d3d1ff82dab093db4e76ea5b20f29ae47d0aef7d4cd953501232be712 vectors", args...)
}

// callWith runs a tool that was built with the firmware.
func callWith(t *testing.T, firmware string, args ...string) (int, string, string) {
	t.Helper()
	own, err := ovmf.ParseOwn(firmware)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr, own: own}
	code := a.main(t.Context(), args)
	return code, stdout.String(), stderr.String()
}

// names returns what lies in a folder, hidden files too.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func put(t *testing.T, path, data string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const guid = "736869e5-84f0-4973-92ec-06879ce3da0b"

// Bad input gives one error line, the documented exit code, and no file.
func TestBadInput(t *testing.T) {
	oracle.Tool(t, "mksquashfs")
	in := t.TempDir()
	key := put(t, filepath.Join(in, "key"), strings.Repeat("k", 64))
	short := put(t, filepath.Join(in, "short"), "secret")
	empty := put(t, filepath.Join(in, "empty"), "")
	big := put(t, filepath.Join(in, "big"), strings.Repeat("b", 3072))
	junk := put(t, filepath.Join(in, "junk"), strings.Repeat("j", 5000))
	root := filepath.Join(in, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	line := put(t, filepath.Join(in, "cmdline"), "console=ttyS0\n")
	launch := func(more ...string) []string {
		return append([]string{"launch", "--simulate", "--firmware", junk, "--kernel", junk, "--initrd", junk,
			"--cmdline-file", line, "--disk", junk}, more...)
	}
	measure := func(mode string, more ...string) []string {
		return append([]string{"measure", "--mode", mode, "--firmware", junk}, more...)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"no command":               {nil, fault.Usage},
		"unknown command":          {[]string{"sael"}, fault.Usage},
		"unknown option":           {[]string{"seal", "--shell"}, fault.Usage},
		"seal without output":      {[]string{"seal", root}, fault.Usage},
		"seal without root":        {[]string{"seal", "-o", "OUT"}, fault.Usage},
		"seal of two roots":        {[]string{"seal", root, root, "-o", "OUT"}, fault.Usage},
		"seal of nothing":          {[]string{"seal", in + "/absent", "-o", "OUT"}, fault.Failed},
		"seal of junk":             {[]string{"seal", junk, "-o", "OUT"}, fault.Failed},
		"seal with short key":      {[]string{"seal", root, "-o", "OUT", "--key-file", short}, fault.Failed},
		"seal with empty key":      {[]string{"seal", root, "-o", "OUT", "--key-file", empty}, fault.Failed},
		"seal with two keys":       {[]string{"seal", root, "-o", "OUT", "--key-file", key, "--key-out", "OUT.k"}, fault.Usage},
		"seal for no disk":         {[]string{"seal", root, "-o", "OUT", "--disk", "vda"}, fault.Usage},
		"seal with bad text":       {[]string{"seal", root, "-o", "OUT", "--append", "cocoroot.shell=1"}, fault.Failed},
		"seal with long text":      {[]string{"seal", root, "-o", "OUT", "--append", strings.Repeat("x", 2000)}, fault.Failed},
		"seal onto one file":       {[]string{"seal", root, "-o", "OUT", "--key-out", "OUT"}, fault.Usage},
		"seal onto a folder":       {[]string{"seal", root, "-o", in, "--force"}, fault.Failed},
		"seal into no folder":      {[]string{"seal", root, "-o", "OUT/x/y"}, fault.Failed},
		"initrd without output":    {[]string{"initrd"}, fault.Usage},
		"initrd with argument":     {[]string{"initrd", "-o", "OUT", "x"}, fault.Usage},
		"initrd of junk":           {[]string{"initrd", "-o", "OUT", "--init", junk}, fault.Failed},
		"initrd without init":      {[]string{"initrd", "-o", "OUT", "--init", in + "/absent"}, fault.Failed},
		"initrd, version alone":    {[]string{"initrd", "-o", "OUT", "--init", junk, "--kver", "6.12"}, fault.Usage},
		"initrd, channel alone":    {[]string{"initrd", "-o", "OUT", "--init", junk, "--channel", "tcp"}, fault.Usage},
		"initrd, no such channel":  {[]string{"initrd", "-o", "OUT", "--init", junk, "--modules", ".", "--channel", "tcp:10.0.2.2:1"}, fault.Usage},
		"initrd, no modules there": {[]string{"initrd", "-o", "OUT", "--init", junk, "--modules", in}, fault.Failed},
		"initrd, debug by half":    {[]string{"initrd", "-o", "OUT", "--commands", junk}, fault.Usage},
		"initrd, debug of junk":    {[]string{"initrd", "-o", "OUT", "--debug", "--init", junk, "--commands", junk}, fault.Failed},
		"initrd, debug of nothing": {[]string{"initrd", "-o", "OUT", "--debug"}, fault.Failed},
		"secret without verb":      {[]string{"secret", "-o", "OUT"}, fault.Usage},
		"secret without output":    {[]string{"secret", "build", guid + "=" + key}, fault.Usage},
		"secret of nothing":        {[]string{"secret", "build", "-o", "OUT"}, fault.Failed},
		"secret, no pair":          {[]string{"secret", "build", key, "-o", "OUT"}, fault.Usage},
		"secret, bad GUID":         {[]string{"secret", "build", "x=" + key, "-o", "OUT"}, fault.Usage},
		"secret, twice":            {[]string{"secret", "build", guid + "=" + key, guid + "=" + short, "-o", "OUT"}, fault.Failed},
		"secret, absent file":      {[]string{"secret", "build", guid + "=" + in + "/absent", "-o", "OUT"}, fault.Failed},
		"secret, too big":          {[]string{"secret", "build", guid + "=" + big, "-o", "OUT"}, fault.Failed},
		"secret, junk firmware":    {[]string{"secret", "build", guid + "=" + key, "-o", "OUT", "--firmware", junk}, fault.Failed},
		"measure without mode":     {[]string{"measure", "--firmware", junk}, fault.Usage},
		"measure in no mode":       {measure("tdx"), fault.Usage},
		"measure with argument":    {measure("sev", "x"), fault.Usage},
		"measure without firmware": {[]string{"measure", "--mode", "sev"}, fault.Usage},
		"measure absent firmware":  {measure("sev", "--firmware", in+"/absent"), fault.Failed},
		"measure a folder":         {measure("sev", "--firmware", in), fault.Failed},
		"measure junk":             {measure("sev"), fault.Failed},
		"measure without vCPUs":    {measure("sev-es", "--vcpu-type", "EPYC"), fault.Usage},
		"measure without type":     {measure("sev-snp", "--vcpus", "1"), fault.Usage},
		"measure no vCPUs":         {measure("sev-es", "--vcpus", "0", "--vcpu-type", "EPYC"), fault.Usage},
		"measure too many vCPUs":   {measure("sev-snp", "--vcpus", "4097", "--vcpu-type", "EPYC"), fault.Usage},
		"measure unknown type":     {measure("sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC-Bologna"), fault.Usage},
		"measure bad signature":    {measure("sev-es", "--vcpus", "1", "--vcpu-sig", "0"), fault.Usage},
		"measure two types":        {measure("sev-es", "--vcpus", "1", "--vcpu-sig", "0x800f12", "--vcpu-type", "EPYC"), fault.Usage},
		"measure bad VM type":      {measure("sev-es", "--vcpus", "1", "--vcpu-type", "EPYC", "--vm-type", "x"), fault.Usage},
		"measure snp VM type":      {measure("sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC", "--vm-type", "init2"), fault.Usage},
		"measure bad features":     {measure("sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC", "--guest-features", "0x10000000000000000"), fault.Usage},
		"measure no such feature":  {measure("sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC", "--guest-features", "0x801"), fault.Usage},
		"measure sev features":     {measure("sev", "--guest-features", "0x1"), fault.Usage},
		"measure sev, bad type":    {measure("sev", "--vcpu-type", "x"), fault.Usage},
		"measure initrd alone":     {measure("sev", "--initrd", junk), fault.Usage},
		"measure cmdline alone":    {measure("sev", "--cmdline", "x"), fault.Usage},
		"measure two cmdlines":     {measure("sev", "--kernel", junk, "--cmdline", "x", "--cmdline-file", line), fault.Usage},
		"measure two kernels":      {measure("sev", "--kernel", junk, "--kernel-hash", strings.Repeat("00", 32)), fault.Usage},
		"measure initrd hash only": {measure("sev", "--initrd-hash", strings.Repeat("00", 32)), fault.Usage},
		"measure short hash":       {measure("sev", "--kernel-hash", "00"), fault.Usage},
		"measure empty kernel":     {measure("sev", "--kernel", ""), fault.Usage},
		"measure long cmdline":     {measure("sev", "--kernel", junk, "--cmdline", strings.Repeat("x", policy.MaxLength+1)), fault.Usage},
		"measure unknown VMM":      {measure("sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC", "--vmm", "x"), fault.Usage},
		"measure cloud and kernel": {measure("sev-snp", "--vcpus", "1", "--vcpu-type", "EPYC", "--vmm", "ec2", "--kernel", junk), fault.Usage},
		"measure cloud, sev-es":    {measure("sev-es", "--vcpus", "1", "--vcpu-type", "EPYC", "--vmm", "gce"), fault.Usage},
		"launch without simulate":  {[]string{"launch", "--firmware", junk, "--kernel", junk, "--initrd", junk, "--cmdline-file", line, "--disk", junk}, fault.Usage},
		"launch without kernel":    {[]string{"launch", "--simulate", "--firmware", junk}, fault.Usage},
		"launch of junk firmware":  {launch(), fault.Failed},
		"launch with absent line":  {launch("--cmdline-file", in+"/absent"), fault.Failed},
		"launch with bad secret":   {launch("--secret", "x"), fault.Failed},
		"launch with absent QEMU":  {launch("--qemu", in+"/absent"), fault.Failed},
		"launch with bad argument": {launch("x"), fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := make([]string, len(tc.args))
			for i, a := range tc.args {
				args[i] = strings.Replace(a, "OUT", filepath.Join(dir, "out"), 1)
			}
			code, _, stderr := call(t, args...)
			if code != tc.code {
				t.Errorf("exit code = %d; want %d", code, tc.code)
			}
			if tc.args != nil && strings.Count(stderr, "cocoroot: error: ") != 1 {
				t.Errorf("stderr = %q; want one error line", stderr)
			}
			if left := names(t, dir); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
	if got := names(t, in); got != "big cmdline empty junk key root short" {
		t.Errorf("the inputs' folder has %s", got)
	}
}

func TestSealWritesAllFourFiles(t *testing.T) {
	oracle.Tool(t, "mksquashfs")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	if code, _, stderr := call(t, "seal", root, "-o", image, "--allow", "no-init"); code != fault.OK || stderr != "" {
		t.Fatalf("seal = %d, %q; want success without a word on stderr", code, stderr)
	}
	if got := names(t, dir); got != "image image.cmdline image.key image.manifest.json root" {
		t.Errorf("files = %s", got)
	}
	fi, err := os.Stat(image + ".key")
	if err != nil || fi.Mode() != 0o600 || fi.Size() != 64 {
		t.Errorf("key: %v, mode %v, %d bytes; want mode 0600, 64 bytes", err, fi.Mode(), fi.Size())
	}
	line, err := os.ReadFile(image + ".cmdline")
	if err != nil || bytes.Count(line, []byte("\n")) != 1 {
		t.Fatalf("command line = %q, %v; want one line", line, err)
	}
	p, err := policy.Parse(string(line))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(image); err != nil || uint64(fi.Size()) != p.Image.DeviceSize() {
		t.Errorf("image: %v, %d bytes; want %d", err, fi.Size(), p.Image.DeviceSize())
	}

	before, _ := os.ReadFile(image)
	if code, _, stderr := call(t, "seal", root, "-o", image, "--allow", "no-init"); code != fault.Failed || !strings.Contains(stderr, "hint: --force") {
		t.Errorf("second seal = %d, %q; want a refusal that names --force", code, stderr)
	}
	if after, _ := os.ReadFile(image); !bytes.Equal(before, after) {
		t.Error("the refused seal changed the image")
	}
	if code, out, _ := call(t, "seal", root, "-o", image, "--force", "--json", "--allow", "no-init"); code != fault.OK || !strings.HasPrefix(out, "{") {
		t.Errorf("seal --force --json = %d, %q; want the manifest", code, out)
	}
}

func TestSecretBuild(t *testing.T) {
	dir := t.TempDir()
	key := put(t, filepath.Join(dir, "key"), "MY-LUKS-PASSPHRASE")
	table := filepath.Join(dir, "table")
	code, out, stderr := call(t, "secret", "build", guid+"="+key, "-o", table)
	if code != fault.OK {
		t.Fatalf("secret build = %d, %q", code, stderr)
	}
	if strings.Contains(out, "MY-LUKS") {
		t.Error("the secret is in the output")
	}
	if fi, err := os.Stat(table); err != nil || fi.Mode() != 0o600 || fi.Size() != 64 {
		t.Errorf("table: %v, %v; want mode 0600, 64 bytes", fi, err)
	}
}
