package main_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoroot/initramfs/image/rootfs"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/fatal/codes"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret/table"
	"cocoroot/unlock/verity"
)

// The boots run the real chain: OVMF, kernel, efi_secret and init under QEMU,
// without SEV hardware. build.sh test makes what they need.

// bootLimit ends a guest that neither boots nor fails. A boot takes 5 to 30 s.
const bootLimit = 4 * time.Minute

// ran is what the test image's program prints first.
const ran = "boot-test: the image's program runs"

// otherGUID is an entry that is not the disk key.
var otherGUID = efi.MustParse("11111111-2222-3333-4444-555555555555")

// sealedImage is what cocoroot seal made of a root.
type sealedImage struct {
	path    string
	key     []byte
	cmdline string
	policy  policy.Policy
}

// seal seals a root with the tool that users have.
func seal(t testing.TB, dir, root string, args ...string) sealedImage {
	t.Helper()
	if !slices.Contains(args, "--append") {
		// Tests look for the kernel's words. On a machine that is busy, an emulated
		// guest may find that its timer does not tick, and panic.
		args = append(args, "--append", "loglevel=7 no_timer_check")
	}
	path := filepath.Join(dir, "image")
	cmd := exec.Command(oracle.Artifact(t, "cocoroot"), append([]string{"seal", root, "-o", path}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cocoroot seal: %v\n%s", err, out)
	}
	image := sealedImage{path: path, cmdline: strings.TrimSuffix(string(read(t, path+".cmdline")), "\n")}
	keyFile := path + ".key"
	if i := slices.Index(args, "--key-file"); i >= 0 {
		keyFile = args[i+1]
	}
	image.key = read(t, keyFile)
	var err error
	if image.policy, err = policy.Parse(image.cmdline); err != nil {
		t.Fatal(err)
	}
	return image
}

// makeSquashfs writes the file system of a root, as seal makes it.
func makeSquashfs(t testing.TB, root, path string) {
	t.Helper()
	image, err := rootfs.Make(t.Context(), root, t.TempDir(), rootfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := os.Rename(image.File.Name(), path); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// testRoot makes a small root: the demo's busybox and a program that says it runs.
func testRoot(t testing.TB, dir, script string) string {
	t.Helper()
	root := filepath.Join(dir, "root")
	if err := os.CopyFS(root, os.DirFS(oracle.Fixture(t, "demo-root"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "sbin/init"), []byte("#!/bin/sh\nPATH=/bin\necho \""+ran+"\"\n"+script+"\npoweroff -f\n"))
	return root
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// lateMarker stands at the start of the file that is read late, and lateData
// is that file: random, so that squashfs stores it as it is, and longer than a block,
// so that it has blocks of its own.
const lateMarker = "LATE-CONTENT-0123456789"

func lateData() []byte {
	data := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(data)
	copy(data, lateMarker)
	return data
}

// testScript is the program of the image that most boots use.
const testScript = `
echo "boot-test: arguments $*"
echo "boot-test: standard input $(readlink /proc/self/fd/0)"
echo "boot-test: environment $(env | sort | tr '\n' ' ')"
echo "boot-test: mounts $(cut -d' ' -f2 /proc/mounts | sort | tr '\n' ' ')"
echo "boot-test: entries $(ls /sys/kernel/security/secrets/coco | tr '\n' ' ')"
echo "boot-test: modules $(cut -d' ' -f1 /proc/modules | tr '\n' ' ')"
echo "boot-test: kept $(ls /run/cocoroot/secrets | tr '\n' ' ')"
echo "boot-test: secrets $(grep '"from"' /run/cocoroot/status.json)"
touch /written && echo "boot-test: root is writable"
echo "boot-test: ACPI $(ls /sys/firmware/acpi/tables 2>/dev/null | tr '\n' ' ')"
echo "boot-test: $(grep -c ^processor /proc/cpuinfo) CPUs, $(sed -n 's/MemTotal: *//p' /proc/meminfo), $(ls /sys/bus/pci/devices | wc -l) PCI devices"
echo "boot-test: late file next"
grep -a -q LATE-CONTENT /late && echo "boot-test: late file read"
`

// soaking tells whether all is tried that there is, as ./build.sh soak has it.
func soaking() bool { return os.Getenv("COCOROOT_SOAK") == "1" }

// some returns the cases of these names: those that show most, where each is a boot. When
// soaking it returns all.
func some[T any](t *testing.T, all map[string]T, names ...string) map[string]T {
	t.Helper()
	if soaking() {
		return all
	}
	out := make(map[string]T)
	for _, name := range names {
		one, ok := all[name]
		if !ok {
			t.Fatalf("there is no case %q", name)
		}
		out[name] = one
	}
	return out
}

// standard is the image that most boots use, sealed once.
var standard struct {
	once  sync.Once
	dir   string
	image sealedImage
}

func standardImage(t *testing.T) sealedImage {
	t.Helper()
	standard.once.Do(func() {
		dir, err := os.MkdirTemp("", "cocoroot-boot-")
		if err != nil {
			t.Fatal(err)
		}
		standard.dir = dir
		root := testRoot(t, dir, testScript)
		write(t, filepath.Join(root, "late"), lateData())
		standard.image = seal(t, dir, root)
	})
	if standard.image.path == "" {
		t.Fatal("the image of the boot tests could not be sealed")
	}
	return standard.image
}

// seen has the codes with which boots have ended.
var seen sync.Map

// unbooted are the codes for what neither a test nor the host can bring about in our kernel
// at the right moment.
var unbooted = []fatal.Code{fatal.Build, fatal.Setup, fatal.LUKSMap, fatal.Arm}

// Where all tests have run, and none may be skipped, each code has had a boot.
func TestMain(m *testing.M) {
	code := m.Run()
	if standard.dir != "" {
		os.RemoveAll(standard.dir)
	}
	if code == 0 && os.Getenv("COCOROOT_REQUIRE_TOOLS") == "1" && flag.Lookup("test.run").Value.String()+flag.Lookup("test.skip").Value.String()+flag.Lookup("test.list").Value.String() == "" {
		for _, e := range codes.Table() {
			if _, ok := seen.Load(e.Code); !ok && !slices.Contains(unbooted, e.Code) {
				fmt.Printf("no boot has failed with %s\n", e.Code)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// guest is one boot: what it boots from, and what it must do.
type guest struct {
	image    string // path; empty for no disk
	cmdline  string
	entries  []table.Entry
	table    []byte // instead of the table of entries
	firmware string
	kernel   string
	initrd   string
	fakeTSM  string        // the module of false reports; default the one for our kernel
	hashes   []byte        // instead of the table of what boots; empty, but not nil, for none
	disks    []launch.Disk // besides the image
	extra    []string      // for QEMU
	memory   int           // MiB
	cpus     int
	ends     string // how QEMU calls its end; default guest-shutdown, a power-off
	learns   func() []needle
	watch    watch           // sees the console as it comes
	typed    io.Reader       // what the host types at the console; may be nil
	killed   <-chan struct{} // when it is closed, QEMU is killed; may be nil
	forwards []launch.Forward
	stop     <-chan struct{} // asks a container image's program to end

	// What an attacker does: onStart before the guest's first instruction
	// (the client may be kept), onEnd when it has ended, with its memory
	// still there.
	onStart func(context.Context, *qmp.Client) error
	onEnd   func(context.Context, *qmp.Client) error
	// device attaches the image in another way than as virtio-blk: QEMU's
	// -device arguments, for the drive "sealed".
	device []string
}

// boots returns a guest that boots the image.
func (s sealedImage) boots(t testing.TB) *guest {
	t.Helper()
	return &guest{
		image: s.path, cmdline: s.cmdline, entries: []table.Entry{entry(t, policy.DefaultKey, s.key)},
		firmware: oracle.Artifact(t, "OVMF.amdsev.fd"), kernel: oracle.Artifact(t, "bzImage"), initrd: oracle.Artifact(t, "initrd.img"),
	}
}

func entry(t testing.TB, g efi.GUID, data []byte) table.Entry {
	t.Helper()
	b, err := secmem.New(max(len(data), 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	copy(b.Bytes(), data)
	b.Truncate(len(data))
	return table.Entry{GUID: g, Data: b}
}

// ended is a guest that has ended.
type ended struct {
	launch.Outcome
	console string
	page    []byte // the secret area as it lay in memory at the end
	err     error
}

// run boots the guest and reads the secret area from outside at its end.
func (g *guest) run(t *testing.T, limit time.Duration) ended {
	t.Helper()
	area := secretArea(t, g.firmware)
	c := launch.Config{
		Firmware: g.firmware, Kernel: g.kernel, Initrd: g.initrd, Cmdline: g.cmdline,
		Memory: g.memory, CPUs: g.cpus, SecretTable: g.table, HashesTable: g.hashes, ExtraArgs: g.extra, ConsoleInput: g.typed,
		Forwards: g.forwards, Program: g.stop != nil, Stop: g.stop,
	}
	if g.image != "" {
		if g.device == nil {
			c.Disks = []launch.Disk{{Path: g.image, Serial: "sealed"}}
		} else {
			c.ExtraArgs = append([]string{"-drive", "if=none,id=sealed,format=raw,readonly=on,file=" + g.image}, c.ExtraArgs...)
			for _, d := range g.device {
				c.ExtraArgs = append(c.ExtraArgs, "-device", d)
			}
		}
	}
	c.Disks = append(c.Disks, g.disks...)
	if g.table == nil && g.entries != nil {
		table, err := table.Build(g.entries, int(area.Size))
		if err != nil {
			t.Fatal(err)
		}
		defer table.Close()
		c.SecretTable = table.Bytes()
	}
	var e ended
	c.OnStart = g.onStart
	c.OnShutdown = func(ctx context.Context, q *qmp.Client) error {
		var err error
		if e.page, err = readMemory(ctx, t, q, uint64(area.Base), uint64(area.Size)); err != nil || g.onEnd == nil {
			return err
		}
		return g.onEnd(ctx, q)
	}
	var console bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	go func() {
		select {
		case <-g.killed:
			cancel()
		case <-ctx.Done():
		}
	}()
	e.Outcome, e.err = launch.Run(ctx, c, io.MultiWriter(&console, &g.watch))
	e.console = console.String()
	if e.Fatal != nil {
		seen.Store(e.Fatal.Code, true)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", e.console)
		}
	})
	return e
}

// readMemory reads guest-physical memory over QMP.
func readMemory(ctx context.Context, t *testing.T, q *qmp.Client, base, size uint64) ([]byte, error) {
	path := filepath.Join(t.TempDir(), "memory")
	args := map[string]any{"val": base, "size": size, "filename": path}
	if err := q.Execute(ctx, "pmemsave", args, nil); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// secretArea returns where a firmware has the injected secrets.
func secretArea(t testing.TB, firmware string) ovmf.Area {
	t.Helper()
	fw, err := ovmf.Parse(read(t, firmware))
	if err != nil {
		t.Fatal(err)
	}
	return fw.Secret
}

// runs boots a guest that must reach the image's program and end by itself.
func (g *guest) runs(t *testing.T) ended {
	t.Helper()
	e := g.run(t, bootLimit)
	if want := cmp.Or(g.ends, "guest-shutdown"); e.err != nil || e.Reason != want || e.Fatal != nil || e.Panic != "" {
		t.Fatalf("outcome = %+v, %v; want %s and nothing else", e.Outcome, e.err, want)
	}
	if !strings.Contains(e.console, ran) {
		t.Fatal("the image's program did not run")
	}
	return e
}

// fails boots a guest that must end with the code, without reaching the
// image's program and without leaving any entry's bytes in the secret area.
func (g *guest) fails(t *testing.T, want string) ended {
	t.Helper()
	e := g.run(t, bootLimit)
	if e.err != nil {
		t.Fatalf("launch: %v", e.err)
	}
	if e.Fatal == nil || string(e.Fatal.Code) != want {
		t.Errorf("FATAL = %+v (panic %q); want %s", e.Fatal, e.Panic, want)
	}
	if n := strings.Count(e.console, "cocoroot: FATAL"); n != 1 {
		t.Errorf("%d FATAL lines; want 1", n)
	}
	if strings.Contains(e.console, ran) {
		t.Error("the image's program ran")
	}
	if want := cmp.Or(g.ends, "guest-shutdown"); e.Reason != want {
		t.Errorf("the guest ended by %q; want %s", e.Reason, want)
	}
	if g.table == nil {
		g.wiped(t, e)
	}
	return e
}

// wiped checks that no entry's bytes are left in the secret area.
func (g *guest) wiped(t *testing.T, e ended) {
	t.Helper()
	if len(e.page) == 0 {
		t.Fatal("the secret area was not read")
	}
	for _, n := range g.entries {
		if data := n.Data.Bytes(); len(data) > 0 && bytes.Contains(e.page, data) {
			t.Errorf("entry %s is still in the guest's memory", n.GUID)
		}
	}
}

// changed copies a file and flips one bit of the byte at offset.
func changed(t *testing.T, path string, offset int64) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(path))
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := to.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := to.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	return out
}

// wrongRoot returns the parameters with another root hash.
func wrongRoot(p verity.Params) verity.Params {
	p.RootHash = sha256.Sum256(fmt.Append(nil, p.RootHash))
	return p
}
