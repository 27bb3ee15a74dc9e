package main

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// Messages name what is wrong in the user's words: neither Go's, nor names of
// temporary files.
func TestMessages(t *testing.T) {
	r := newGuestRig(t)
	dir := t.TempDir()
	file := func(name, data string) string { return put(t, filepath.Join(dir, name), data) }
	kernel := make([]byte, 4096)
	copy(kernel[0x202:], "HdrS")
	bz, initrd := file("bzImage", string(kernel)), file("initrd.img", "070701"+strings.Repeat("0", 104))
	qcow2 := file("disk.qcow2", "QFI\xfb"+strings.Repeat("\x00", 6000))
	plain := file("plain", string(oracle.Vector(t, "ovmfx64.fd")))
	fd, secret := r.shared[1], guid+"="+file("key", secretKey)
	measure := []string{"measure", "--mode", "sev", "--firmware", fd}
	launch := []string{"launch", "--simulate", "--firmware", fd, "--cmdline-file", r.cmdline, "--kernel", bz, "--disk", r.cmdline}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	absent, challenge := filepath.Join(dir, "absent"), filepath.Join(dir, "challenge")
	if code, _, stderr := call(t, "release", "challenge", "-o", challenge); code != fault.OK {
		t.Fatal(stderr)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"empty image":          {[]string{"verify", file("empty", ""), "--cmdline-file", r.cmdline}, "it is empty"},
		"short image":          {[]string{"verify", file("short", "LUKS\xba\xbe"), "--cmdline-file", r.cmdline}, "it has 6 bytes, and the image "},
		"qcow2 as image":       {[]string{"verify", qcow2, "--cmdline-file", r.cmdline}, "it is a qcow2; qemu-img convert"},
		"qcow2 as root":        {[]string{"seal", qcow2, "-o", filepath.Join(dir, "o")}, "it is a qcow2 of version 0"},
		"qcow2 as disk":        {slices.Concat(launch, []string{"--initrd", initrd, "--disk", qcow2}), "it is a qcow2; qemu-img convert"},
		"qcow2":                {[]string{"inspect", qcow2}, "it is a qcow2; qemu-img convert"},
		"no secret area":       {[]string{"secret", "build", secret, "-o", filepath.Join(dir, "o"), "--firmware", plain}, "it has no secret area"},
		"no area to launch":    {slices.Concat(launch, []string{"--initrd", initrd, "--firmware", plain, "--secret", secret}), "it has no secret area"},
		"swapped":              {slices.Concat(measure, []string{"--kernel", initrd, "--initrd", bz}), "--initrd swapped"},
		"kernel for initrd":    {slices.Concat(measure, []string{"--kernel", bz, "--initrd", bz}), "--initrd swapped"},
		"swapped at launch":    {slices.Concat(launch, []string{"--kernel", initrd, "--initrd", bz}), "--initrd swapped"},
		"manifest, wrong kind": {[]string{"verify", bz, "--manifest", file("m", `{"version": "x"}`)}, `the string at "version" is of the wrong kind`},
		"manifest, no JSON":    {[]string{"verify", bz, "--manifest", file("m2", `{"version": 1,,}`)}, "it is not JSON from byte 15 on"},
		"manifest, cut":        {[]string{"verify", bz, "--manifest", file("m3", `{"version": 1`)}, "it ends too early"},
		"manifest, more":       {[]string{"verify", bz, "--manifest", file("m4", `{"versions": 1}`)}, `unknown field "versions"`},
		"report":               {[]string{"inspect", file("rep", `{"api_major": 300}`)}, `the number at "api_major" is of the wrong kind, or too large`},
		"no such folder":       {[]string{"seal", dir, "-o", "/nonexistent/x/image"}, "cannot write /nonexistent/x/image: no such file or directory"},
		"vCPUs and type":       {[]string{"measure", "--mode", "sev-snp", "--firmware", fd}, "options --vcpus and --vcpu-type are missing"},
		"launch, nothing":      {[]string{"launch", "--simulate"}, "options --firmware, --kernel, --initrd, --cmdline-file and --disk are missing"},
		"launch, no session":   {slices.Concat([]string{"launch", "--mode", "sev-es", "--cmdline-file", r.cmdline}, r.shared[:8]), "options --session-file, --dh-cert-file, --vcpu-type and --qmp-socket are missing"},
		"template, nothing":    {[]string{"template", "libvirt-sev-es"}, "options --firmware, --kernel, --initrd, --disk, --session-file, --dh-cert-file and --vcpu-type are missing"},
		"no such root":         {[]string{"seal", absent, "-o", filepath.Join(dir, "o")}, "error: cannot read " + absent + ": no such file or directory\n"},
		"a link to itself":     {[]string{"seal", loop, "-o", filepath.Join(dir, "o")}, "error: cannot read " + loop + ": too many levels of symbolic links\n"},
		"no such image":        {[]string{"verify", absent}, "error: cannot read " + absent + ": no such file or directory\n"},
		"no such file":         {[]string{"inspect", absent}, "error: cannot read " + absent + ": no such file or directory\n"},
		"a folder as manifest": {[]string{"verify", bz, "--manifest", dir}, "error: cannot read " + dir + ": is a directory\n"},
		"no such guest":        {[]string{"launch", absent, "--simulate"}, "cocoroot create has made no such folder"},
		"a file as guest":      {[]string{"launch", bz, "--simulate"}, "cocoroot create has made no such folder"},
		"an empty name":        {[]string{"seal", "", "-o", filepath.Join(dir, "o")}, "it got an empty one"},
		"an empty output":      {[]string{"seal", dir, "-o", ""}, "option --output is missing"},
		"create over a file":   {[]string{"create", bz, "-o", bz, "--force"}, "is there already\ncocoroot: hint: choose another name"},
		"cut tar":              {[]string{"seal", file("cut.tar", string(tarOf(t, "a", "b"))[:1024+10]), "-o", filepath.Join(dir, "o")}, "the tar is malformed: it ends too early"},
		"broken tar":           {[]string{"seal", file("broken.tar", string(tarOf(t, "a"))[:512]+strings.Repeat("x", 1024)), "-o", filepath.Join(dir, "o")}, "where an entry should begin is something else"},
		"text as init":         {[]string{"initrd", "-o", filepath.Join(dir, "o"), "--init", r.cmdline}, "it is not a program"},
		"misspelt option":      {[]string{"seal", dir, "--outptu", "o"}, "cocoroot seal has no option --outptu\ncocoroot: hint: did you mean --output?"},
		"no option at all":     {[]string{"seal", dir, "--nonsense"}, "hint: cocoroot seal --help"},
		"a short option":       {[]string{"verify", "-dash"}, "unknown shorthand flag: 'd' in -dash"},
		"not in the guest":     {[]string{"state", "generation"}, "hint: this runs in the guest"},
		"no socket":            {[]string{"release", "collect", "--channel", filepath.Join(dir, "no"), "--challenge", challenge, "-o", filepath.Join(dir, "o")}, "hint: QEMU makes the socket when the guest starts"},
		"version, no dry run":  {slices.Concat(launch, []string{"--initrd", initrd, "--qemu-version", "10.0"}), "is for --dry-run"},
	} {
		code, out, stderr := call(t, tc.args...)
		if code == fault.OK || out != "" && name != "report" || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s = %d, %q, %q; want %q", name, code, out, stderr, tc.want)
		}
		if m := regexp.MustCompile(` json: |Go (struct|value)|\bEOF|archive/tar|: (open|read|lstat) |\.tmp-|unmarshal|\.cocoroot-seal-`).FindString(stderr); m != "" {
			t.Errorf("%s says %q: %q", name, m, stderr)
		}
	}
	if code, out, stderr := call(t, "secret", "build", secret, "-o", filepath.Join(dir, "table")); code != fault.OK || !strings.Contains(out, ": 1 entry, ") {
		t.Errorf("secret build = %d, %q, %q; want 1 entry", code, out, stderr)
	}
}

// tarOf returns a tar with empty files.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 0}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

// full is a device without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, unix.ENOSPC }

// What cannot be printed is not taken for printed.
func TestOutputThatFails(t *testing.T) {
	r := newGuestRig(t)
	for _, args := range [][]string{{"--help"}, {"seal", "--help"}, {"version"}, {"template"}, {"inspect", r.cmdline}, {"inspect", r.cmdline, "--json"},
		{"measure", "--mode", "sev", "--firmware", r.shared[1]}, {"completion", "bash"}} {
		var stderr bytes.Buffer
		a := &app{stdout: full{}, stderr: &stderr}
		if code := a.main(t.Context(), args); code != fault.Failed || strings.Count(stderr.String(), "cannot write standard output: no space left on device") != 1 {
			t.Errorf("%q = %d, %q; want %d, and the error once", args, code, stderr.String(), fault.Failed)
		}
	}
}

// A tar with the root in a folder is told what it is.
func TestSealTarWithTopFolder(t *testing.T) {
	oracle.Tool(t, "mksquashfs")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"rootfs/", "rootfs/sbin/", "rootfs/etc/"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	dir := t.TempDir()
	code, _, stderr := call(t, "seal", put(t, filepath.Join(dir, "x.tar"), b.String()), "-o", filepath.Join(dir, "image"))
	if code != fault.Failed || !strings.Contains(stderr, `one folder, "rootfs"`) || !strings.Contains(stderr, "hint: make the tar from inside that folder: tar -C rootfs -c .") {
		t.Errorf("seal = %d, %q", code, stderr)
	}
}

// launch --dry-run needs no QEMU when its version is given, and its command has
// the secret.
func TestDryRunWithoutQEMU(t *testing.T) {
	r := newGuestRig(t)
	key := put(t, filepath.Join(r.dir, "key"), secretKey)
	code, out, stderr := call(t, "launch", "--simulate", "--dry-run", "--qemu", "/nonexistent/qemu", "--qemu-version", "10.0",
		"--firmware", r.shared[1], "--kernel", r.shared[3], "--initrd", r.shared[5], "--disk", r.shared[7], "--cmdline-file", r.cmdline, "--secret", guid+"="+key)
	if code != fault.OK || !strings.Contains(out, "loader,file=secret-table.bin,addr=") || !strings.Contains(stderr, "secret-table.bin") {
		t.Errorf("launch --dry-run = %d, %q, %q", code, out, stderr)
	}
	if strings.Contains(out+stderr, secretKey[:8]) {
		t.Error("the secret is in the output")
	}
	code, out, stderr = call(t, r.hardware("sev-es", "--dry-run", "--qemu", "/nonexistent/qemu", "--qemu-version", "9.1")...)
	if code != fault.OK || !strings.Contains(out, "legacy-vm-type=on") {
		t.Errorf("launch --mode --dry-run = %d, %q, %q", code, out, stderr)
	}
}

// silentQEMU is a QEMU whose guest prints a line and does nothing else.
const silentQEMU = `#!/bin/sh
[ "$1" = --version ] && echo 'QEMU emulator version 7.2.0' && exit
for option; do
	case $option in file,id=console,path=*) console=${option#*path=} ;; esac
done
printf '\033]0;title\007\033[2Jthe guest\033[0m\n' >"$console"
exec sleep 60
`

// An interrupt ends the guest, says so, and is exit code 130. Of the console,
// the user's terminal got the text only.
func TestLaunchInterrupted(t *testing.T) {
	r := newGuestRig(t)
	qemu := put(t, filepath.Join(t.TempDir(), "qemu"), silentQEMU)
	if err := os.Chmod(qemu, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Second, cancel)
	var stdout, stderr bytes.Buffer
	code := (&app{stdout: &stdout, stderr: &stderr}).main(ctx, []string{"launch", "--simulate", "--qemu", qemu,
		"--firmware", r.shared[1], "--kernel", r.shared[3], "--initrd", r.shared[5], "--disk", r.shared[7], "--cmdline-file", r.cmdline})
	if code != fault.Interrupted || !strings.Contains(stderr.String(), "QEMU was ended, and the guest with it") || strings.Contains(stderr.String(), "nothing was written") {
		t.Errorf("launch = %d, %q; want %d", code, stderr.String(), fault.Interrupted)
	}
	if stdout.String() != "the guest\n" {
		t.Errorf("launch prints %q", stdout.String())
	}
}
