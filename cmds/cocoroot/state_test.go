package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/state"
)

// stateWords are those of a guest with a state and a scratch disk.
var stateWords = []string{"cocoroot.overlay=ephemeral:serial:scratch", "cocoroot.state=data,/var/lib/app,serial:data", "cocoroot.state-key=" + policy.DefaultStateKey.String()}

func TestStateNew(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	code, out, stderr := call(t, "state", "new", "-o", key)
	fi, err := os.Stat(key)
	if code != fault.OK || err != nil || fi.Mode() != 0o600 || fi.Size() != 64 || !strings.Contains(out, policy.DefaultStateKey.String()) {
		t.Fatalf("state new = %d, %q, %q; %v, %v", code, out, stderr, fi, err)
	}
	first, _ := os.ReadFile(key)
	if code, _, stderr := call(t, "state", "new", "-o", key); code != fault.Failed || !strings.Contains(stderr, "choose another name") {
		t.Errorf("state new over a key = %d, %q", code, stderr)
	}
	if now, _ := os.ReadFile(key); string(now) != string(first) {
		t.Error("the key was replaced")
	}
	if code, _, stderr := call(t, "state", "new", "-o", key+"2"); code != fault.OK {
		t.Errorf("state new = %d, %q", code, stderr)
	}
	if second, _ := os.ReadFile(key + "2"); string(second) == string(first) || len(second) != 64 {
		t.Error("the second key is the first one")
	}
}

// The generations themselves need a guest: the boot tests have them. Here are paths
// of no state; a user's FIFO does not keep root waiting.
func TestStateGeneration(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(syscall.Mkfifo(dir+"/fifo", 0o600), os.Symlink("fifo", dir+"/link"), os.Symlink("loop", dir+"/loop"), os.Symlink("/dev/zero", dir+"/device")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fifo", "link", "loop", "device"} {
		if code, out, stderr := call(t, "state", "generation", dir+"/"+name); code != fault.Failed || out != "" || strings.Count(stderr, "error: open "+dir) != 1 {
			t.Errorf("state generation %s = %d, %q, %q", name, code, out, stderr)
		}
	}
	for args, want := range map[string]int{"state generation": fault.Failed, "state generation /proc": fault.Failed, "state generation /nonexistent": fault.Failed, "state generation / /": fault.Usage} {
		if code, out, stderr := call(t, strings.Fields(args)...); code != want || out != "" || strings.Count(stderr, "error: ") != 1 {
			t.Errorf("%s = %d, %q, %q; want %d", args, code, out, stderr, want)
		}
	}
}

// What the owner orders is one entry of the table, on each way to the guest.
func TestStateOrders(t *testing.T) {
	r := newRig(t, "0x7")
	orders := []string{"--state-create", "data", "--state-floor", "logs=0017", "--state-floor", "top=18446744073709551615"}
	const text = "create data\nfloor logs 17\nfloor top 18446744073709551615\n"
	states := []policy.State{{Name: "data"}, {Name: "logs"}, {Name: "top"}}
	if o, err := state.ParseOrders([]byte(text), states); err != nil || !o["data"].Create || o["logs"].Floor != 17 || o["top"].Floor != 1<<64-1 {
		t.Errorf("the guest reads %+v, %v", o, err)
	}
	build := append([]string{"secret", "build", guid + "=" + r.path("key"), "-o", r.path("table")}, orders...)
	if code, out, stderr := call(t, build...); code != fault.OK || !strings.Contains(out, ": 2 entries, ") {
		t.Fatalf("secret build = %d, %q, %q", code, out, stderr)
	}
	if table := string(r.read("table")); !strings.Contains(table, text) {
		t.Errorf("the table is %q; want %q in it", table, text)
	}
	_, out, _ := call(t, "secret", "inspect", r.path("table"), "--json")
	if !strings.Contains(out, policy.Orders.String()) {
		t.Errorf("secret inspect = %s; want the orders' entry", out)
	}
	q := &fakeQEMU{Guest: r.guest}
	r.collect(q)
	if code, _, stderr := r.verify(orders...); code != fault.OK {
		t.Fatalf("release verify = %d, %q", code, stderr)
	}
	if code, _, stderr := call(t, "release", "inject", r.path("p_packet.json"), "--qmp", q.Serve(t)); code != fault.OK || !strings.Contains(string(r.guest.Table), text) {
		t.Errorf("release inject = %d, %q; the guest has %q", code, stderr, r.guest.Table)
	}
	r = newRig(t, "0x7")
	if code, _, stderr := call(t, append(r.owner("run", "--qmp", (&fakeQEMU{Guest: r.guest}).Serve(t)), orders...)...); code != fault.OK || !strings.Contains(string(r.guest.Table), text) {
		t.Errorf("release run = %d, %q; the guest has %q", code, stderr, r.guest.Table)
	}
	for args, want := range map[string]string{
		"--state-create Data":                         `the name "Data"`,
		"--state-create data --state-create data":     "two orders about the state data",
		"--state-create data --state-floor data=1":    "two orders about the state data",
		"--state-floor data":                          "cocoroot state generation prints it",
		"--state-floor data=-1":                       "cocoroot state generation prints it",
		"--state-floor data=18446744073709551616":     "cocoroot state generation prints it",
		"--state-floor data=1 --state-floor data=2":   "two orders about the state data",
		"--state-floor a\nb=1":                        `the name "a\nb"`,
		"--state-create data " + guid + "=/nonexist=": "/nonexist",
	} {
		code, out, stderr := call(t, append([]string{"secret", "build", "-o", r.path("t")}, strings.Split(args, " ")...)...)
		if code == fault.OK || out != "" || !strings.Contains(stderr, want) {
			t.Errorf("secret build %q = %d, %q, %q; want %q", args, code, out, stderr, want)
		}
	}
	table := r.owner("verify", r.path("report"), "-o", r.path("p"), "--state-create", "data")
	table[slices.Index(table, guid+"="+r.path("key"))] = "--table=" + r.path("key")
	r.collect(&fakeQEMU{Guest: r.guest})
	if code, _, stderr := call(t, table...); code != fault.Usage || !strings.Contains(stderr, "secret build takes them") {
		t.Errorf("release verify --table with an order = %d, %q", code, stderr)
	}
}

// seal writes the words of the disks, and looks for the folders in the root.
func TestSealWithDisks(t *testing.T) {
	root, dir := aRoot(t), t.TempDir()
	for _, name := range []string{"var/lib/app", "srv"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(root, "file"), "x")
	for link, to := range map[string]string{"link": "/srv", "loop": "loop", "runs": "/run"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, "image")
	out := sealOK(t, root, "-o", image, "--scratch", "serial:scratch", "--state", "data,/var/lib/app,serial:data", "--state", "logs,/srv,/dev/vdb")
	line, err := os.ReadFile(image + ".cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append([]string{"cocoroot.state=logs,/srv,/dev/vdb"}, stateWords...) {
		if !slices.Contains(strings.Fields(string(line)), want) {
			t.Errorf("the line %q has no %s", line, want)
		}
	}
	if !strings.Contains(out, policy.DefaultStateKey.String()) {
		t.Errorf("seal says %q; want the key's entry", out)
	}
	for _, file := range []string{image + ".cmdline", image + ".manifest.json"} {
		_, out, _ := call(t, "inspect", "--json", file)
		if !strings.Contains(out, `"data,/var/lib/app,serial:data"`) || !strings.Contains(out, `"state_key": "`+policy.DefaultStateKey.String()) {
			t.Errorf("inspect %s = %s; want the states", file, out)
		}
	}
	var m struct {
		States   []string
		StateKey string `json:"state_key"`
	}
	text, _ := os.ReadFile(image + ".manifest.json")
	if err := json.Unmarshal(text, &m); err != nil || len(m.States) != 2 || m.StateKey != policy.DefaultStateKey.String() {
		t.Errorf("the manifest has %+v, %v", m, err)
	}
	put(t, image+".manifest.json", strings.Replace(string(text), "data,/var", "date,/var", 1))
	if code, _, stderr := call(t, "verify", image, "--manifest", image+".manifest.json"); code != fault.Failed || !strings.Contains(stderr, "other states than its command line") {
		t.Errorf("verify with a changed manifest = %d, %q", code, stderr)
	}
	for args, want := range map[string]string{
		"--state data,/nowhere,serial:data":                                       "no folder /nowhere",
		"--state data,/file,serial:data":                                          "no folder /file",
		"--state data,/file/x,serial:data":                                        "no folder /file/x",
		"--state data,/loop,serial:data":                                          "no folder /loop",
		"--state data,/link,serial:data":                                          "its folder is /srv",
		"--append cocoroot.state=data,/x,serial:data cocoroot.state-key=" + guid2: "no folder /x",
		"--state data,/run/x,serial:data":                                         "/run is the kernel's",
		"--state data,/srv,/dev/vda":                                              "has two uses",
		"--state data,/srv,serial:data --state-key " + guid:                       "same entry",
		"--state data,/srv":                                                       "not NAME,PATH,DISK",
		"--state-key " + guid2:                                                    "--state-key is for --state",
		"--scratch vdb":                                                           "/dev/NAME",
		"--scratch serial:x --append cocoroot.overlay=none":                       "repeated",
	} {
		words := strings.Split(args, " ")
		if words[0] == "--append" {
			words = strings.SplitN(args, " ", 2)
		}
		code, _, stderr := call(t, append([]string{"seal", "--allow", "no-init", root, "-o", filepath.Join(dir, "bad")}, words...)...)
		if code == fault.OK || !strings.Contains(stderr, want) {
			t.Errorf("seal %s = %d, %q; want %q", args, code, stderr, want)
		}
		if strings.Contains(names(t, dir), "bad") {
			t.Fatalf("seal %s left %s", args, names(t, dir))
		}
	}
}

const guid2 = "11111111-2222-3333-4444-555555555555"

// simulated are the arguments of a launch that prints its command.
func (r *guestRig) simulated(more ...string) []string {
	key := put(r.t, filepath.Join(r.dir, "key"), secretKey)
	return slices.Concat([]string{"launch", "--simulate", "--dry-run", "--qemu-version", "10.0", "--cmdline-file", r.cmdline,
		"--firmware", r.shared[1], "--kernel", r.shared[3], "--initrd", r.shared[5], "--disk", r.shared[7],
		"--secret", guid + "=" + key}, more)
}

// A launch gives the guest each disk that its line names, and what could not boot
// is said before.
func TestLaunchWithDisks(t *testing.T) {
	r := newGuestRig(t, stateWords...)
	file := put(t, filepath.Join(r.dir, "data.disk"), "x")
	scratch := put(t, filepath.Join(r.dir, "scratch.disk"), "x")
	key := []string{"--secret", policy.DefaultStateKey.String() + "=" + file}
	disks := []string{"--state-disk", "data=" + file, "--scratch-disk", scratch}
	good := slices.Concat(key, disks)
	code, out, stderr := call(t, r.simulated(slices.Concat(good, []string{"--state-floor", "data=7"})...)...)
	if code != fault.OK {
		t.Fatalf("launch = %d, %q", code, stderr)
	}
	if words := words(t, out); !slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, "data.disk") && !strings.Contains(w, "readonly") }) ||
		!slices.Contains(words, "virtio-blk-pci,drive=disk1,serial=data") || !slices.Contains(words, "virtio-blk-pci,drive=disk2,serial=scratch") {
		t.Errorf("the command is %q; want both disks, writable", words)
	}
	none := newGuestRig(t)
	byPath := newGuestRig(t, "cocoroot.state=data,/x,/dev/vdb", "cocoroot.state-key="+guid2)
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no disk":            {r.simulated(slices.Concat(key, disks[2:])...), fault.Usage, "serial:data, as its command line says: --state-disk data=FILE"},
		"no scratch disk":    {r.simulated(slices.Concat(key, disks[:2])...), fault.Usage, "--scratch-disk FILE"},
		"another name":       {r.simulated(slices.Concat(good, []string{"--state-disk", "date=" + file})...), fault.Usage, "no such disk"},
		"one name twice":     {r.simulated(slices.Concat(good, disks[:2])...), fault.Usage, "each NAME once"},
		"no name":            {r.simulated(slices.Concat(good, []string{"--state-disk", file})...), fault.Usage, "NAME=FILE"},
		"a short name":       {r.simulated(append(disks, "--secret", "state="+file)...), fault.OK, ""},
		"no key":             {r.simulated(disks...), fault.Usage, "no --secret brings their key, " + policy.DefaultStateKey.String()},
		"create another":     {r.simulated(slices.Concat(good, []string{"--state-create", "date"})...), fault.Usage, "has no state date"},
		"floor of another":   {r.simulated(slices.Concat(good, []string{"--state-floor", "date=1"})...), fault.Usage, "has no state date"},
		"floor, no number":   {r.simulated(slices.Concat(good, []string{"--state-floor", "data=x"})...), fault.Usage, "not NAME=GENERATION"},
		"absent":             {r.simulated(slices.Concat(key, disks[2:], []string{"--state-disk", "data=/nonexistent/d"})...), fault.Failed, "truncate -s 10G /nonexistent/d"},
		"empty":              {r.simulated(slices.Concat(key, disks[:2], []string{"--scratch-disk", put(t, filepath.Join(r.dir, "empty"), "")})...), fault.Failed, "truncate -s 10G"},
		"qcow2":              {r.simulated(slices.Concat(key, disks[:2], []string{"--scratch-disk", put(t, filepath.Join(r.dir, "qcow2"), "QFI\xfb")})...), fault.Failed, "it is a qcow2"},
		"state without one":  {none.simulated("--state-disk", "data="+file), fault.Usage, "no such disk"},
		"scratch without":    {none.simulated("--scratch-disk", file), fault.Usage, "no such disk"},
		"create without":     {none.simulated("--state-create", "data"), fault.Usage, "has no state data"},
		"order on hardware":  {r.hardware("sev-es", slices.Concat(disks, []string{"--state-create", "data", "--dry-run"})...), fault.Usage, "is for --simulate"},
		"another place":      {byPath.simulated("--disk", file, "--secret", guid2+"="+file, "--state-disk", "data="+file), fault.Usage, "would have it at /dev/vdc"},
		"the place it is at": {byPath.simulated("--secret", guid2+"="+file, "--state-disk", "data="+file), fault.OK, ""},
	} {
		if code, _, stderr := call(t, tc.args...); code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s = %d, %q; want %d and %q", name, code, stderr, tc.code, tc.want)
		}
	}
}

// The launch files have the disks too.
func TestTemplateWithDisks(t *testing.T) {
	xmllint := oracle.Tool(t, "xmllint")
	r := newGuestRig(t, stateWords...)
	disks := []string{"--manifest", r.manifest, "--state-disk", "data=/srv/data.disk", "--scratch-disk", "/dev/vg/scratch"}
	for _, mode := range []string{"sev-es", "sev-snp"} {
		text := r.template("libvirt-"+mode, r.with(mode, disks...)...)
		oracle.Run(t, xmllint, "--noout", "--relaxng", filepath.Join(oracle.Fixture(t, "libvirt-trixie"), "domain.rng"), put(t, filepath.Join(t.TempDir(), "domain.xml"), text))
		var d struct {
			Disks []struct {
				Type   string `xml:"type,attr"`
				Source struct {
					File string `xml:"file,attr"`
					Dev  string `xml:"dev,attr"`
				} `xml:"source"`
				Target struct {
					Dev string `xml:"dev,attr"`
				} `xml:"target"`
				ReadOnly *struct{} `xml:"readonly"`
				Serial   string    `xml:"serial"`
			} `xml:"devices>disk"`
		}
		if err := xml.Unmarshal([]byte(text), &d); err != nil || len(d.Disks) != 3 {
			t.Fatalf("%s: %v, %+v", mode, err, d)
		}
		image, data, scratch := d.Disks[0], d.Disks[1], d.Disks[2]
		if image.ReadOnly == nil || data.ReadOnly != nil || data.Source.File != "/srv/data.disk" || data.Serial != "data" || data.Target.Dev != "vdb" ||
			scratch.ReadOnly != nil || scratch.Type != "block" || scratch.Source.Dev != "/dev/vg/scratch" || scratch.Serial != "scratch" || scratch.Target.Dev != "vdc" {
			t.Errorf("%s: the disks are %+v", mode, d.Disks)
		}
	}
	script := words(t, r.template("qemu-sev-snp", r.with("sev-snp", append(disks, "--qemu-version", "10.0")...)...))
	if !slices.Contains(script, "if=none,id=disk1,format=raw,file=/srv/data.disk") || !slices.Contains(script, "virtio-blk-pci,drive=disk1,disable-legacy=on,iommu_platform=on,serial=data") {
		t.Errorf("the script starts %q", script)
	}
	if code, _, stderr := call(t, slices.Concat([]string{"template", "libvirt-sev-snp"}, r.with("sev-snp", "--manifest", r.manifest, "--state-disk", "data=data.disk", "--scratch-disk", "/x"))...); code != fault.Usage || !strings.Contains(stderr, "not an absolute path") {
		t.Errorf("a relative disk = %d, %q", code, stderr)
	}
}
