package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/sevcert"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/policy"
)

// guestRig are the files of a guest, with names that have to be quoted in
// every way.
type guestRig struct {
	t               *testing.T
	dir             string
	line            string
	cmdline         string // file
	manifest        string
	session, dhCert string
	shared          []string // options of launch and template
}

const awkward = `console=ttyS0 a="x, 'y' & <z> $HOME \n %s" rootfstype=squashfs cocoroot.disk=serial:ro.ot ` +
	`cocoroot.image=verity:sha256:4096:1000:00ff:aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55`

// newGuestRig makes them, with more words in the guest's line.
func newGuestRig(t *testing.T, more ...string) *guestRig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "it's <a>, & b")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := &guestRig{t: t, dir: dir, line: strings.Join(append([]string{awkward}, more...), " ")}
	file := func(name, data string) string { return put(t, filepath.Join(dir, name), data) }
	r.cmdline = file("cmdline", r.line+"\n")
	p, err := policy.Parse(r.line)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Manifest{
		Version: strictjson.Version, Image: p.Image, Size: p.Image.DeviceSize(), LUKS: "0b7a1f0e-1111-4222-8333-444455556666",
		FSType: p.FSType, Key: p.Key, States: manifest.StatesOf(p), StateKey: p.StateKey, Cmdline: r.line,
	}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r.manifest = file("manifest.json", string(m))
	r.session = file("vm_session.b64", base64.StdEncoding.EncodeToString(make([]byte, 128)))
	r.dhCert = file("vm_godh.b64", base64.StdEncoding.EncodeToString(ownerCertificate(t)))
	firmware := file("OVMF, 1.fd", string(oracle.Vector(t, "amdsev.fd")))
	r.shared = []string{"--firmware", firmware, "--kernel", file("kernel", "k"), "--initrd", file("initrd", "i"),
		"--disk", file("image", "d"), "--vcpus", "4", "--memory", "2048", "--vcpu-type", "EPYC-Milan"}
	return r
}

// secretKey is a key as cocoroot seal makes it. It must never be printed.
const secretKey = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2"

// ownerCertificate is the public half of a session.
func ownerCertificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := sevcert.Owner(key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// with returns the options for a mode, with a session where it has one.
func (r *guestRig) with(mode string, more ...string) []string {
	args := slices.Concat(more, r.shared)
	if mode != "sev-snp" {
		args = append(args, "--session-file", r.session, "--dh-cert-file", r.dhCert)
	}
	return args
}

// template fills one in.
func (r *guestRig) template(name string, args ...string) string {
	r.t.Helper()
	code, out, stderr := call(r.t, slices.Concat([]string{"template", name}, args)...)
	if code != fault.OK || stderr != "" {
		r.t.Fatalf("template %s = %d, %q", name, code, stderr)
	}
	return out
}

// digest measures with a command line.
func (r *guestRig) digest(mode, line string) string {
	r.t.Helper()
	opt := func(name string) string { return r.shared[slices.Index(r.shared, name)+1] }
	code, out, stderr := call(r.t, "measure", "--mode", mode, "--firmware", opt("--firmware"), "--kernel", opt("--kernel"),
		"--initrd", opt("--initrd"), "--cmdline", line, "--vcpus", "4", "--vcpu-type", "EPYC-Milan")
	if code != fault.OK {
		r.t.Fatalf("measure = %d, %q", code, stderr)
	}
	return out
}

// words runs a shell file with the program replaced by one that prints its
// arguments, and returns them.
func words(t *testing.T, script string) []string {
	t.Helper()
	printer := put(t, filepath.Join(t.TempDir(), "printer"), "#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
	if err := os.Chmod(printer, 0o700); err != nil {
		t.Fatal(err)
	}
	script = strings.ReplaceAll(script, "qemu-system-x86_64", printer)
	out, err := exec.Command("sh", "-c", script).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// The QEMU commands are those of launch --dry-run, word for word, whose
// arguments QEMU's parser has seen (TestQEMUUnderstands); and what they start
// has the digest that measure computes.
func TestTemplateQEMU(t *testing.T) {
	qemu := oracle.Tool(t, "qemu-system-x86_64")
	version, err := launch.QEMUVersion(t.Context(), qemu)
	if err != nil {
		t.Fatal(err)
	}
	r := newGuestRig(t)
	socket := filepath.Join(r.dir, "qmp")
	for _, mode := range []string{"sev", "sev-es", "sev-snp"} {
		if mode == "sev-snp" && !version.AtLeast(9, 1) {
			code, _, stderr := call(t, append([]string{"template", "qemu-sev-snp", "--manifest", r.manifest}, r.with(mode)...)...)
			if code != fault.Failed || !strings.Contains(stderr, "9.1") {
				t.Errorf("sev-snp for QEMU %v = %d, %q; want a refusal that names 9.1", version, code, stderr)
			}
			continue
		}
		got := words(t, r.template("qemu-"+mode, r.with(mode, "--manifest", r.manifest, "--qmp-socket", socket)...))
		args := r.with(mode, "--mode", mode, "--cmdline-file", r.cmdline, "--qmp-socket", socket, "--cbitpos", "51", "--reduced-phys-bits", "1", "--dry-run")
		disk := slices.Index(args, "--disk") + 1
		args[disk] += ",serial=ro.ot"
		code, out, stderr := call(t, append([]string{"launch"}, args...)...)
		if code != fault.OK || stderr != "" {
			t.Fatalf("launch --dry-run = %d, %q", code, stderr)
		}
		if want := words(t, out); !sameOptions(got, want) {
			t.Errorf("%s: the template's command is\n%q\nlaunch's is\n%q", mode, got, want)
		}
		if line := got[slices.Index(got, "-append")+1]; r.digest(mode, line) != r.digest(mode, r.line) {
			t.Errorf("%s: the command starts the line %q; want %q", mode, line, r.line)
		}
	}
}

// For QEMU releases that are not here, the words are still one object.
func TestTemplateQEMUVersion(t *testing.T) {
	r := newGuestRig(t)
	for _, tc := range []struct{ name, mode, version, want, not string }{
		{"qemu-sev-es", "sev-es", "7.2", "kernel-hashes=on,session-file=", "legacy-vm-type"},
		{"qemu-sev-es", "sev-es", "10.0", "kernel-hashes=on,legacy-vm-type=on,session-file=", "legacy-vm-type=off"},
		{"qemu-sev-snp", "sev-snp", "10.0", "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on", "legacy-vm-type"},
	} {
		got := words(t, r.template(tc.name, r.with(tc.mode, "--manifest", r.manifest, "--qmp-socket", "/run/vm/qmp", "--qemu-version", tc.version)...))
		objects := 0
		for i, w := range got {
			if w == "-object" && strings.HasPrefix(got[i+1], "sev-") {
				objects++
				if !strings.Contains(got[i+1], tc.want) || strings.Contains(got[i+1], tc.not) {
					t.Errorf("%s for %s: object %q; want %q and no %q", tc.name, tc.version, got[i+1], tc.want, tc.not)
				}
			}
		}
		if objects != 1 {
			t.Errorf("%s: %d SEV objects in %q", tc.name, objects, got)
		}
	}
}

// sameOptions compares command lines without the order of options, of which
// each kind but -object occurs in one order.
func sameOptions(a, b []string) bool {
	return slices.Equal(options(a), options(b))
}

func options(words []string) []string {
	var all []string
	for _, w := range words {
		if strings.HasPrefix(w, "-") || len(all) == 0 {
			all = append(all, w)
		} else {
			all[len(all)-1] += " " + w
		}
	}
	slices.Sort(all)
	return all
}

// domain is what a libvirt description has to say.
type domain struct {
	Name string `xml:"name"`
	OS   struct {
		Loader  string `xml:"loader"`
		Kernel  string `xml:"kernel"`
		Initrd  string `xml:"initrd"`
		Cmdline string `xml:"cmdline"`
	} `xml:"os"`
	OnReboot string `xml:"on_reboot"`
	VCPU     int    `xml:"vcpu"`
	Model    string `xml:"cpu>model"`
	Disk     struct {
		Type   string `xml:"type,attr"`
		Source struct {
			File string `xml:"file,attr"`
			Dev  string `xml:"dev,attr"`
		} `xml:"source"`
		Serial string `xml:"serial"`
	} `xml:"devices>disk"`
	Security struct {
		Type    string `xml:"type,attr"`
		Hashes  string `xml:"kernelHashes,attr"`
		Policy  string `xml:"policy"`
		Session string `xml:"session"`
		DHCert  string `xml:"dhCert"`
	} `xml:"launchSecurity"`
}

func TestTemplateLibvirt(t *testing.T) {
	xmllint := oracle.Tool(t, "xmllint")
	r := newGuestRig(t)
	for _, tc := range []struct{ mode, kind, policy, schema string }{
		{"sev", "sev", "0x3", "libvirt-bookworm"}, {"sev-es", "sev", "0x7", "libvirt-bookworm"}, {"sev-es", "sev", "0x7", "libvirt-trixie"},
		{"sev-snp", "sev-snp", "0x30000", "libvirt-trixie"},
	} {
		schema := filepath.Join(oracle.Fixture(t, tc.schema), "domain.rng")
		text := r.template("libvirt-"+tc.mode, r.with(tc.mode, "--manifest", r.manifest, "--name", "a & b")...)
		file := put(t, filepath.Join(t.TempDir(), "domain.xml"), text)
		validate := func(file string) ([]byte, error) {
			return exec.Command(xmllint, "--noout", "--relaxng", schema, file).CombinedOutput()
		}
		if out, err := validate(file); err != nil {
			t.Errorf("%s by %s: %v\n%s", tc.mode, tc.schema, err, out)
		}
		broken := put(t, file+".broken", strings.Replace(text, "<cbitpos>", "<cbitpos>x", 1))
		if _, err := validate(broken); err == nil {
			t.Errorf("%s takes a C-bit x; the test sees nothing", tc.schema)
		}
		var d domain
		if err := xml.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		if r.digest(tc.mode, d.OS.Cmdline) != r.digest(tc.mode, r.line) {
			t.Errorf("%s: the domain starts the line %q; want %q", tc.mode, d.OS.Cmdline, r.line)
		}
		opt := func(name string) string { return r.shared[slices.Index(r.shared, name)+1] }
		if d.OS.Loader != opt("--firmware") || d.OS.Kernel != opt("--kernel") || d.OS.Initrd != opt("--initrd") || d.Disk.Source.File != opt("--disk") {
			t.Errorf("%s: the domain has the files %+v, %+v", tc.mode, d.OS, d.Disk)
		}
		if d.Name != "a & b" || d.OnReboot != "destroy" || d.VCPU != 4 || d.Model != "EPYC-Milan" || d.Disk.Serial != "ro.ot" || d.Disk.Type != "file" {
			t.Errorf("%s: the domain is %+v", tc.mode, d)
		}
		if d.Security.Type != tc.kind || d.Security.Hashes != "yes" || d.Security.Policy != tc.policy {
			t.Errorf("%s: launchSecurity is %+v", tc.mode, d.Security)
		}
		if tc.kind == "sev" && (base64.StdEncoding.EncodeToString(make([]byte, 128)) != d.Security.Session || d.Security.DHCert == "") {
			t.Errorf("%s: the session is %+v", tc.mode, d.Security)
		}
	}
	device := append(r.with("sev-es", "--manifest", r.manifest), "--disk", "/dev/vg/root", "--vcpu-type", "host")
	file := put(t, filepath.Join(t.TempDir(), "domain.xml"), r.template("libvirt-sev-es", device...))
	oracle.Run(t, xmllint, "--noout", "--relaxng", filepath.Join(oracle.Fixture(t, "libvirt-bookworm"), "domain.rng"), file)
	var d domain
	if b, err := os.ReadFile(file); err != nil || xml.Unmarshal(b, &d) != nil || d.Disk.Type != "block" || d.Disk.Source.Dev != "/dev/vg/root" {
		t.Errorf("a block device: %v, %+v", err, d.Disk)
	}
}

func TestTemplateList(t *testing.T) {
	code, out, _ := call(t, "template")
	if code != fault.OK || strings.Count(out, "\n") != len(templateNames()) {
		t.Errorf("template = %d, %q", code, out)
	}
}

func TestTemplateBadInput(t *testing.T) {
	r := newGuestRig(t)
	good := func(name string, more ...string) []string {
		return slices.Concat([]string{"template", name, "--manifest", r.manifest, "--qmp-socket", "/run/vm/qmp", "--qemu-version", "10.0"}, r.with(strings.SplitN(name, "-", 2)[1]), more)
	}
	junk := put(t, filepath.Join(r.dir, "junk"), "junk\n")
	control := put(t, filepath.Join(r.dir, "control"), "x=\x01 "+r.line)
	key := put(t, filepath.Join(r.dir, "key"), secretKey)
	out := filepath.Join(t.TempDir(), "out")
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"unknown name":                {[]string{"template", "xen"}, fault.Usage},
		"two names":                   {[]string{"template", "qemu-sev", "qemu-sev"}, fault.Usage},
		"nothing else":                {[]string{"template", "qemu-sev"}, fault.Usage},
		"two command lines":           {good("qemu-sev", "--cmdline-file", r.cmdline), fault.Usage},
		"junk manifest":               {good("qemu-sev", "--manifest", junk), fault.Failed},
		"absent manifest":             {good("qemu-sev", "--manifest", r.dir+"/absent"), fault.Failed},
		"other serial":                {good("qemu-sev", "--disk", "/x,serial=other"), fault.Usage},
		"no socket":                   {good("qemu-sev-es", "--qmp-socket", ""), fault.Usage},
		"no session":                  {good("libvirt-sev-es", "--session-file", ""), fault.Usage},
		"junk session":                {good("libvirt-sev-es", "--session-file", r.cmdline), fault.Failed},
		"no kernel":                   {good("qemu-sev", "--kernel", ""), fault.Usage},
		"relative kernel":             {good("qemu-sev", "--kernel", "bzImage"), fault.Usage},
		"relative session":            {good("qemu-sev", "--session-file", "vm_session.b64"), fault.Usage},
		"relative socket":             {good("qemu-sev", "--qmp-socket", "qmp"), fault.Usage},
		"no CPUs":                     {good("qemu-sev", "--vcpus", "0"), fault.Usage},
		"no type":                     {good("qemu-sev-es", "--vcpu-type", ""), fault.Usage},
		"unknown type":                {good("qemu-sev-es", "--vcpu-type", "x"), fault.Usage},
		"bad policy":                  {good("qemu-sev-es", "--policy", "x"), fault.Usage},
		"ES without ES":               {good("qemu-sev-es", "--policy", "3"), fault.Usage},
		"bad VM type":                 {good("qemu-sev-es", "--vm-type", "x"), fault.Usage},
		"libvirt with init2":          {good("libvirt-sev-es", "--vm-type", "init2"), fault.Usage},
		"bad version":                 {good("qemu-sev-es", "--qemu-version", "ten"), fault.Usage},
		"old QEMU":                    {good("qemu-sev-snp", "--qemu-version", "9.0"), fault.Failed},
		"slash in the name":           {good("libvirt-sev", "--name", "a/b"), fault.Usage},
		"no XML":                      {good("libvirt-sev", "--manifest", "", "--cmdline-file", control), fault.Failed},
		"key as session":              {good("libvirt-sev-es", "--session-file", key), fault.Failed},
		"key as certificate":          {good("libvirt-sev-es", "--dh-cert-file", key), fault.Failed},
		"key for QEMU":                {good("qemu-sev-es", "--session-file", key), fault.Failed},
		"key as certificate for QEMU": {good("qemu-sev-es", "--dh-cert-file", key), fault.Failed},
		"key as line":                 {good("qemu-sev-es", "--manifest", "", "--cmdline-file", key), fault.Failed},
	} {
		code, text, stderr := call(t, append(tc.args, "-o", out)...)
		if code != tc.code || text != "" || strings.Count(stderr, "cocoroot: error: ") != 1 {
			t.Errorf("%s = %d, %q, %q; want %d and one error", name, code, text, stderr, tc.code)
		}
		if _, err := os.Stat(out); err == nil {
			t.Fatalf("%s wrote a file", name)
		}
		if strings.Contains(stderr, secretKey[:16]) {
			t.Errorf("%s prints the key: %q", name, stderr)
		}
		if strings.Contains(stderr, "executing") {
			t.Errorf("%s tells of the template: %q", name, stderr)
		}
	}
}

// The README's way from virsh's output to a report gives the one that the
// platform's MAC is good for.
func TestReportFromVirsh(t *testing.T) {
	oracle.Tool(t, "awk")
	readme, err := os.ReadFile(filepath.Join(oracle.Repository(t), "initramfs/release/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, command, found := strings.Cut(string(readme), "virsh domlaunchsecinfo vm | ")
	command, _, ended := strings.Cut(command, " >report.json")
	if !found || !ended {
		t.Fatal("the README has no such command")
	}
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest, Type: "sev"})
	var says struct {
		Major       int    `json:"api_major"`
		Minor       int    `json:"api_minor"`
		Build       int    `json:"build"`
		Policy      int    `json:"policy"`
		Measurement string `json:"measurement"`
	}
	if err := json.Unmarshal(r.read("report"), &says); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", command)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("sev-measurement: %s\nsev-api-major  : %d\nsev-api-minor  : %d\nsev-build-id   : %d\nsev-policy     : %d\n\n",
		says.Measurement, says.Major, says.Minor, says.Build, says.Policy))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	put(t, r.path("report"), string(out))
	if code, _, stderr := r.verify(); code != fault.OK {
		t.Errorf("release verify of %s = %d, %q", out, code, stderr)
	}
}
