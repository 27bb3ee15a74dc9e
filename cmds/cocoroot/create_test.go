package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
	"cocoroot/templates"
)

// makings is what a guest is made of in tests: files that are only looked at.
type makings struct {
	dir, root string
	boots     []string // options
}

func newMakings(t *testing.T) makings {
	t.Helper()
	oracle.Tool(t, "mksquashfs")
	dir := t.TempDir()
	kernel := make([]byte, 4096)
	copy(kernel[0x202:], "HdrS")
	m := makings{dir: dir, root: filepath.Join(dir, "root")}
	if err := os.MkdirAll(filepath.Join(m.root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.boots = []string{"--firmware", put(t, m.path("OVMF"), string(oracle.Vector(t, "amdsev.fd"))), "--kernel", put(t, m.path("bzImage"), string(kernel)),
		"--initrd", put(t, m.path("initrd"), "070701"+strings.Repeat("0", 104)), "--allow", "no-init"}
	return m
}

func (m makings) path(name string) string { return filepath.Join(m.dir, name) }

// create are the arguments of create for the folder vm.
func (m makings) create(more ...string) []string {
	return slices.Concat([]string{"create", m.root, "-o", m.path("vm")}, m.boots, more)
}

// ok runs what has to succeed.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, stderr := call(t, args...)
	if code != fault.OK {
		t.Fatalf("%q = %d, %q, %q", args, code, out, stderr)
	}
	return out
}

// A guest's folder is all that launch and verify need, simulated; what is changed
// in the host's half is found.
func TestCreate(t *testing.T) {
	m := newMakings(t)
	vm := m.path("vm")
	out := ok(t, m.create("--state", "data,/data,512M", "--scratch", "512M", "--memory", "768", "--vcpus", "2")...)
	if !strings.Contains(out, "launch "+vm+" --simulate") {
		t.Errorf("create says %q", out)
	}
	if got := names(t, vm+"/host") + "; " + names(t, vm+"/owner"); got != "cmdline firmware image image.manifest.json initrd kernel vm.json; disk.key image.manifest.json state.key vm.json" {
		t.Errorf("files = %s", got)
	}
	if got := names(t, m.dir); got != "OVMF bzImage initrd root vm" {
		t.Errorf("left beside it: %s", got)
	}
	for name, want := range map[string]os.FileMode{"": 0o755, "host": 0o755, "host/image": 0o644, "owner": 0o700, "owner/disk.key": 0o600, "owner/state.key": 0o600} {
		if fi, err := os.Stat(filepath.Join(vm, name)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", name, fi, err, want)
		}
	}
	dry := []string{"launch", vm, "--simulate", "--dry-run", "--qemu-version", "10.0"}
	out = ok(t, dry...)
	for _, want := range []string{"-m 768", "-smp 2", "-bios " + vm + "/host/firmware", "-kernel " + vm + "/host/kernel", "-initrd " + vm + "/host/initrd",
		"file=" + vm + "/host/image,readonly=on", vm + "/host/disks/data", "serial=data", vm + "/host/disks/scratch", "serial=scratch", "secret-table.bin"} {
		if !strings.Contains(out, want) {
			t.Errorf("launch has no %q: %s", want, out)
		}
	}
	if out := ok(t, append(dry, "--memory", "2048", "--kernel", m.path("bzImage"))...); !strings.Contains(out, "-m 2048") || !strings.Contains(out, "-kernel "+m.path("bzImage")) {
		t.Errorf("what is given does not count: %s", out)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"launch", vm, "--mode", "sev-es", "--dry-run"}, fault.Usage, "was not made for mode sev-es"},
		{[]string{"launch", vm, vm, "--simulate"}, fault.Usage, "one folder"},
		{[]string{"launch", m.root, "--simulate"}, fault.Usage, "cocoroot create has made no such folder"},
		{[]string{"launch", vm}, fault.Usage, "--simulate and --mode"},
		{[]string{"verify", vm + "/host"}, fault.Usage, "has no owner's half"},
		{[]string{"release", "challenge", "--vm", vm + "/host"}, fault.Failed, "host/owner/challenge"},
		{[]string{"verify", m.root}, fault.Usage, "cocoroot create has made no such folder"},
		{m.create(), fault.Failed, "hint: --force replaces the guest"},
		{append(m.create("--force"), "-o", folderWith(t, "vm.json", `{"version":2}`)), fault.Failed, "this program knows version 1"},
		{[]string{"release", "verify", m.path("initrd"), "--vm", vm}, fault.Usage, "was made for simulated launches only"},
	} {
		if code, _, stderr := call(t, tc.args...); code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%q = %d, %q; want %d and %q", tc.args, code, stderr, tc.code, tc.want)
		}
	}
	if out := ok(t, "verify", vm); !strings.Contains(out, "the key opens it") {
		t.Errorf("verify = %q", out)
	}
	for _, name := range []string{"kernel", "cmdline", "image"} {
		path := filepath.Join(vm, "host", name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		put(t, path, string(good[:len(good)-1])+"x")
		if code, _, stderr := call(t, "verify", vm); code != fault.Tampered {
			t.Errorf("verify with another %s = %d, %q; want %d", name, code, stderr, fault.Tampered)
		}
		put(t, path, string(good))
	}
	// The host's manifest and record are not believed.
	put(t, vm+"/host/image.manifest.json", "{}")
	put(t, vm+"/host/vm.json", "{}")
	ok(t, "verify", vm)
}

// A guest that is made again keeps its states and their key; nothing is lost.
func TestCreateAgain(t *testing.T) {
	m := newMakings(t)
	vm := m.path("vm")
	ok(t, m.create("--state", "data,/data,512M")...)
	ok(t, "launch", vm, "--simulate", "--dry-run", "--qemu-version", "10.0")
	key := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	state, disk := key(vm+"/owner/state.key"), key(vm+"/owner/disk.key")
	code, _, stderr := call(t, m.create("--state", "data,/data,512M", "--force")...)
	_, kept, _ := strings.Cut(stderr, "is kept as ")
	kept = strings.TrimSpace(kept)
	if code != fault.OK || kept == "" {
		t.Fatalf("create --force = %d, %q", code, stderr)
	}
	if key(vm+"/owner/state.key") != state || key(vm+"/owner/disk.key") == disk || key(kept+"/owner/disk.key") != disk || names(t, vm+"/host/disks") != "data" {
		t.Errorf("the new one has %s and %s, the old one %s", names(t, vm+"/owner"), names(t, vm+"/host"), names(t, kept+"/owner"))
	}
	ok(t, "verify", kept)
	if code, _, _ := call(t, "create", m.root, "-o", m.root, "--force"); code != fault.Failed || names(t, m.root) != "data" {
		t.Errorf("create --force over a folder of another kind = %d", code)
	}
	// What fails leaves all as it was.
	before := names(t, m.dir)
	code, _, stderr = call(t, m.create("--state", "data,/nothing,512M", "--force")...)
	if code != fault.Failed || !strings.Contains(stderr, "no folder /nothing") || names(t, m.dir) != before || strings.Contains(stderr, ".tmp-") {
		t.Errorf("create that fails = %d, %q, files %s", code, stderr, names(t, m.dir))
	}
	ok(t, "verify", vm)
	// Keys that another user could have put there are not taken over.
	if err := os.Chmod(vm+"/owner", 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, m.create("--force")...); code != fault.Failed || !strings.Contains(stderr, "cannot keep the keys") {
		t.Errorf("create over an open folder = %d, %q", code, stderr)
	}
	if err := os.Chmod(vm+"/owner", 0o700); err != nil {
		t.Fatal(err)
	}
	// Messages have the folder's own name.
	if err := errors.Join(os.Remove(vm+"/owner/state.key"), os.Mkdir(vm+"/owner/state.key", 0o700)); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, m.create("--force")...); code != fault.Failed || !strings.Contains(stderr, "cannot keep the key") || strings.Contains(stderr, ".tmp-") {
		t.Errorf("create over a key that is none = %d, %q", code, stderr)
	}
}

// What cannot be a guest is refused before there is any work, and leaves nothing.
func TestCreateRefuses(t *testing.T) {
	m := newMakings(t)
	settings := put(t, m.path("settings"), "memory = 512\n\nmemry = 1\n")
	wrong := put(t, m.path("wrong"), "# memory\nmemory = \"much\"\n")
	many := put(t, m.path("many"), "memory = [1, 2]\n")
	ours := put(t, m.path("ours"), "output = \"vm\"\n")
	program := put(t, m.path("program"), "qemu = \"/bin/true\"\nsecret = [\"disk=/etc/shadow\"]\n")
	before := names(t, m.dir)
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no source":      {[]string{"create", "-o", m.path("vm")}, fault.Usage, "the root file system"},
		"no output":      {[]string{"create", m.root}, fault.Usage, "--output is missing"},
		"no firmware":    {[]string{"create", m.root, "-o", m.path("vm")}, fault.Failed, "hint: ./build.sh firmware makes it"},
		"two kinds":      {m.create("--mode", "sev-snp", "--mode", "sev-es"), fault.Usage, "a folder for each"},
		"no type":        {m.create("--mode", "sev-snp"), fault.Usage, "--vcpu-type is missing"},
		"unknown type":   {m.create("--mode", "sev-es", "--vcpu-type", "EPYC-Bologna"), fault.Usage, "EPYC-Bologna"},
		"owner, no SNP":  {m.create("--channel", "serial:ttyS2"), fault.Usage, "for --mode sev-snp"},
		"no memory":      {m.create("--memory", "0"), fault.Usage, "at least 1"},
		"no CPU":         {m.create("--vcpus", "2,0"), fault.Usage, "at least 1"},
		"state, no size": {m.create("--state", "data,/data"), fault.Usage, "NAME,PATH,SIZE"},
		"state, size":    {m.create("--state", "data,/data,much"), fault.Usage, "not the size of a disk"},
		"scratch, size":  {m.create("--scratch", "256M"), fault.Usage, "300M is the least"},
		"state, path":    {m.create("--state", "data,data,1G"), fault.Usage, "data"},
		"no setting":     {m.create("--settings", settings), fault.Usage, "line 3: memry: there is no such setting"},
		"wrong value":    {m.create("--settings", wrong), fault.Usage, "line 2: memory: "},
		"too many":       {m.create("--settings", many), fault.Usage, "line 1: memory: it takes one value"},
		"not a setting":  {m.create("--settings", ours), fault.Usage, "line 1: output: there is no such setting"},
		"run":            {[]string{"run", m.root}, fault.Usage, "run needs --simulate"},
		"a program":      {[]string{"run", "--simulate", m.root, "--settings", program}, fault.Usage, "line 1: qemu: there is no such setting"},
	} {
		if code, out, stderr := call(t, tc.args...); code != tc.code || out != "" || !strings.Contains(stderr, tc.want) || names(t, m.dir) != before {
			t.Errorf("%s = %d, %q, %q, files %s; want %d and %q", name, code, out, stderr, names(t, m.dir), tc.code, tc.want)
		}
	}
	foreign := slices.Concat([]string{"create", m.root, "-o", m.path("vm")}, m.boots, []string{"--mode", "sev"})
	if code, _, stderr := callWith(t, "", foreign...); code != fault.Failed || !strings.Contains(stderr, "--firmware-unchecked") || names(t, m.dir) != before {
		t.Errorf("firmware that is not our own = %d, %q", code, stderr)
	}
}

// The file of settings has every option of create, and every line of it does; an
// option takes precedence.
func TestSettings(t *testing.T) {
	m := newMakings(t)
	file := templates.Settings()
	if out := ok(t, "template", "settings"); out != file {
		t.Error("template settings prints another file")
	}
	c, _, err := (&app{}).root().Find([]string{"create"})
	if err != nil {
		t.Fatal(err)
	}
	inFile := regexp.MustCompile(`(?m)^#(?:\[)?([a-z-]+)(?: = |\])`).FindAllStringSubmatch(file, -1)
	var have []string
	for _, line := range inFile {
		have = append(have, line[1])
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(notSettings, f.Name) && !slices.Contains(have, f.Name) {
			t.Errorf("templates/vm/cocoroot.toml has no %s", f.Name)
		}
	})
	ok(t, "owner", "new", "-o", m.path("me"))
	all := regexp.MustCompile(`(?m)^#(\[|[a-z-]+ = )`).ReplaceAllString(file, "$1")
	all = strings.Replace(all, `"me.pub"`, `"`+m.path("me.pub")+`"`, 1)
	if err := c.Flags().Set("memory", "512"); err != nil {
		t.Fatal(err)
	}
	if err := c.Flags().Set("settings", put(t, m.path("all"), all)); err != nil {
		t.Fatal(err)
	}
	if err := applySettings(c); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory": "512", "vcpus": "[4,8]", "compression": "6", "append": "loglevel=7", "run": "run"} {
		if got := c.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("%s = %s; want %s", name, got, want)
		}
	}
	settings := put(t, m.path("some"), "state = [\"data,/data,512M\"]\nvcpus = [2, 4]\nmode = [\"sev-es\"]\nvcpu-type = \"EPYC-Milan\"\n[credentials]\n"+strings.Replace(dbPassword, "=", " = \"", 1)+"\"\n")
	ok(t, m.create("--settings", settings)...)
	out := ok(t, "launch", m.path("vm"), "--simulate", "--dry-run", "--qemu-version", "10.0")
	if !strings.Contains(out, "-smp 2") || !strings.Contains(out, "serial=data") {
		t.Errorf("launch = %s", out)
	}
	if line, err := os.ReadFile(m.path("vm/host/cmdline")); err != nil || !strings.Contains(string(line), " cocoroot.credential="+dbPassword) {
		t.Errorf("the line is %s, %v; want a credential", line, err)
	}
}

// On SEV-ES, the owner's steps take the folder too.
func TestCreateSEVES(t *testing.T) {
	m := newMakings(t)
	vm, p := m.path("vm"), newPlatform(t)
	ok(t, m.create("--mode", "sev-es", "--mode", "sev-es", "--vcpu-type", "EPYC-Milan", "--vcpus", "1,2")...)
	ok(t, "secret", "session", put(t, m.path("chain"), string(p.chain())), "--amd-root", p.Root, "--vm", vm)
	out := ok(t, "launch", vm, "--mode", "sev-es", "--dry-run", "--qemu-version", "10.0")
	for _, want := range []string{"session-file=" + vm + "/owner/session_session.b64", "path=" + vm + "/host/run/qmp", "-cpu EPYC-Milan", "policy=0x7"} {
		if !strings.Contains(out, want) {
			t.Errorf("launch has no %q: %s", want, out)
		}
	}
	if strings.Contains(out, "secret-table") {
		t.Errorf("launch on hardware has a secret: %s", out)
	}
	if fi, err := os.Stat(vm + "/host/run"); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("run: %v, %v; want mode 0700", fi, err)
	}
	script := ok(t, "template", "qemu-sev-es", "--vm", vm, "--qemu-version", "10.0")
	if !strings.Contains(script, "-kernel "+vm+"/host/kernel") {
		t.Errorf("template = %s", script)
	}
	// The script is the same command, from its own folder.
	own := string(must(os.ReadFile(vm + "/host/launch-sev-es.sh")))
	if _, command, _ := strings.Cut(own, "\nexec "); strings.Contains(own, vm) || strings.Contains(own, "/proc/") || strings.Contains(own, m.dir) ||
		!strings.Contains(command, "-kernel ./kernel") || !strings.Contains(command, "file=./image,readonly=on") || !strings.Contains(command, "session-file=./session_session.b64") {
		t.Errorf("the script is %s", own)
	}
	fake := put(t, m.path("qemu-system-x86_64"), "#!/bin/sh\npwd\n")
	cmd := exec.Command("sh", vm+"/host/launch-sev-es.sh")
	if cmd.Env = []string{"PATH=" + m.dir + ":/usr/bin:/bin"}; os.Chmod(fake, 0o700) != nil {
		t.Fatal("cannot make a QEMU")
	}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != vm+"/host\n" {
		t.Errorf("the script runs in %s, %v", out, err)
	}
	r := &rig{t: t, dir: vm + "/owner", platform: p}
	r.digest = strings.TrimSpace(ok(t, "measure", "--mode", "sev-es", "--vm", vm, "--vcpus", "2"))
	guest := p.start(t, r.base64("session_session.b64"), r.base64("session_godh.b64"), 7, [32]byte(must(parseDigest(r.digest))))
	qmp := (&fakeQEMU{Guest: guest}).Serve(t)
	ok(t, "release", "collect", "--vm", vm, "--qmp", qmp)
	ok(t, "release", "verify", vm+"/host/report.json", "--vm", vm)
	ok(t, "release", "inject", vm+"/host/release_packet.json", "--vm", vm, "--qmp", qmp)
	if !bytes.Contains(guest.Table, r.read("disk.key")) {
		t.Errorf("the guest has %q", guest.Table)
	}
}

// On SEV-SNP, too: with the packet carried by hand, and all at once.
func TestCreateSNP(t *testing.T) {
	m, r := newMakings(t), newAsked(t)
	vm := m.path("vm")
	r.ok(m.create("--mode", "sev-snp", "--vcpu-type", "EPYC-Genoa", "--vcpus", "1,4", "--firmware-unchecked")...)
	r.digest = strings.TrimSpace(r.ok("measure", "--mode", "sev-snp", "--vm", vm, "--vcpus", "4"))
	key := must(os.ReadFile(vm + "/owner/disk.key"))
	put(t, r.path("me.pub"), string(must(os.ReadFile(vm+"/owner/owner.pub"))))
	if out := r.ok("launch", vm+"/host", "--mode", "sev-snp", "--dry-run", "--qemu-version", "10.0", "--firmware-unchecked"); !strings.Contains(out, "path="+vm+"/host/run/owner") {
		t.Errorf("launch = %s", out)
	}
	channel, got := r.socket()
	r.ok("release", "challenge", "--vm", vm)
	r.ok("release", "collect", "--vm", vm, "--channel", channel)
	r.ok("release", "verify", vm+"/host/report.json", "--vm", vm, "--vcek", r.path("vcek"))
	r.ok("release", "inject", vm+"/host/release_packet.json", "--vm", vm, "--channel", channel)
	if s := <-got; s != string(key) {
		t.Errorf("the guest has %q", s)
	}
	channel, got = r.socket()
	if err := os.Symlink(channel, vm+"/owner/socket"); err != nil {
		t.Fatal(err)
	}
	r.ok("release", "run", "--vm", vm, "--vcek", r.path("vcek"))
	if s := <-got; s != string(key) {
		t.Errorf("all at once: the guest has %q", s)
	}
	// Made again, it has the owner's key, and a disk key of its own. The guest that it
	// replaces, which may be deployed, is released as before.
	owner := string(must(os.ReadFile(vm + "/owner/owner.key")))
	code, _, stderr := r.call(m.create("--mode", "sev-snp", "--vcpu-type", "EPYC-Genoa", "--firmware-unchecked", "--force")...)
	_, kept, _ := strings.Cut(stderr, vm+" was is kept as ")
	kept = strings.TrimSpace(kept)
	if code != fault.OK || string(must(os.ReadFile(vm+"/owner/owner.key"))) != owner || bytes.Equal(must(os.ReadFile(vm+"/owner/disk.key")), key) {
		t.Errorf("create --force = %d, %q, or its keys", code, stderr)
	}
	channel, got = r.socket()
	r.ok("release", "run", "--vm", kept, "--channel", channel, "--vcek", r.path("vcek"))
	if s := <-got; s != string(key) {
		t.Errorf("the guest that was replaced has %q", s)
	}
	// Another guest than the measured one gets nothing, whatever the host's half says.
	r.digest = strings.Repeat("ab", 48)
	put(t, vm+"/host/image.manifest.json", "{}")
	channel, got = r.socket()
	if code, _, stderr := r.call("release", "run", "--vm", vm, "--channel", channel, "--vcek", r.path("vcek")); code != fault.Mismatch {
		t.Errorf("another digest = %d, %q", code, stderr)
	}
	if s := <-got; !strings.Contains(s, "does not release") {
		t.Errorf("the refused guest: %q", s)
	}
	if code, _, stderr := r.call("release", "run", "--vm", vm+"/host", "--channel", channel); code != fault.Usage || !strings.Contains(stderr, "only the owner releases") {
		t.Errorf("release run with the host's half = %d, %q", code, stderr)
	}
}

// A container image is sealed as seal does it, and what it cannot have is refused.
func TestCreateContainer(t *testing.T) {
	m := newMakings(t)
	m.boots = append(m.boots, "--run", oracle.Artifact(t, "run"))
	m.root = aContainer(t, service)
	ok(t, m.create("--", "serve")...)
	out := ok(t, "launch", m.path("vm"), "--simulate", "--dry-run", "--qemu-version", "10.0", "--publish")
	if !strings.Contains(out, "hostfwd=tcp:127.0.0.1:8080-:80") {
		t.Errorf("launch --publish = %s", out)
	}
	before := names(t, m.dir)
	for want, config := range map[string]map[string]any{
		`its user "nobody"`:  {"User": "nobody"},
		`its user "0:staff"`: {"User": "0:staff"},
		`there is no signal "SIGWHAT", which it stops by`:       {"StopSignal": "SIGWHAT"},
		`its program "absent": it is in no folder of the PATH`:  {"Cmd": []string{"absent"}},
		`its volume "/sys/fs/cgroup" is where the guest has`:    {"Volumes": map[string]any{"/sys/fs/cgroup": struct{}{}}}, // as who runs systemd or docker in one asks
		`its working folder "/dev/fuse" is where the guest has`: {"WorkingDir": "/dev/fuse"},
		`its port "80/sctp"`: {"ExposedPorts": map[string]any{"80/sctp": struct{}{}}},
	} {
		if config["Cmd"] == nil {
			config["Cmd"] = []string{"/app"}
		}
		m.root = aContainer(t, config)
		code, out, stderr := call(t, slices.Concat(m.create(), []string{"-o", m.path("other")})...)
		if code != fault.Failed || out != "" || !strings.Contains(stderr, want) || !strings.Contains(stderr, "hint: change the image") || names(t, m.dir) != before {
			t.Errorf("create = %d, %q, %q, files %s; want %q", code, out, stderr, names(t, m.dir), want)
		}
	}
}
