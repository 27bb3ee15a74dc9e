package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// aRoot is a root with an init that the audit has nothing against.
func aRoot(t *testing.T) string {
	t.Helper()
	oracle.Tool(t, "mksquashfs")
	root := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(root, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe") // a program for this machine
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "sbin/init"), program[:1<<20], 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func sealOK(t *testing.T, args ...string) string {
	t.Helper()
	code, out, stderr := call(t, append([]string{"seal", "--allow", "no-init"}, args...)...)
	if code != fault.OK {
		t.Fatalf("seal %s = %d, %q", args, code, stderr)
	}
	return out
}

func TestSealFromSeed(t *testing.T) {
	root, in := aRoot(t), t.TempDir()
	seed := put(t, filepath.Join(in, "seed"), strings.Repeat("s", 32))
	other := put(t, filepath.Join(in, "other"), strings.Repeat("t", 32))
	four := func(args ...string) []string {
		image := filepath.Join(t.TempDir(), "image")
		sealOK(t, append([]string{"-o", image}, args...)...)
		var all []string
		for _, ending := range []string{"", ".key", ".cmdline", ".manifest.json"} {
			data, err := os.ReadFile(image + ending)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(data))
		}
		return all
	}
	first := four(root, "--deterministic-from", seed)
	t.Setenv("TZ", "Asia/Tokyo")
	defer syscall.Umask(syscall.Umask(0o077))
	for i, data := range four(root, "--deterministic-from", seed) {
		if data != first[i] {
			t.Errorf("file %d of two seals of one root from one seed differs", i)
		}
	}
	put(t, filepath.Join(root, "changed"), "x")
	for name, all := range map[string][]string{
		"another root": four(root, "--deterministic-from", seed), "another seed": four(root, "--deterministic-from", other), "no seed": four(root),
	} {
		if all[1] == first[1] {
			t.Errorf("%s: the same key", name)
		}
		// Salts, volume key and UUIDs: nothing of the header but its shape is alike.
		const keyslots, end = 32 << 10, 32<<10 + 250<<10
		if all[0][keyslots:keyslots+4096] == first[0][keyslots:keyslots+4096] || all[0][end-4096:end] == first[0][end-4096:end] {
			t.Errorf("%s: the same key material", name)
		}
	}
	if code, _, stderr := call(t, "seal", root, "--allow", "no-init", "-o", filepath.Join(in, "image"), "--deterministic-from", put(t, filepath.Join(in, "short"), "short")); code != fault.Failed || !strings.Contains(stderr, "/dev/urandom") {
		t.Errorf("a short seed = %d, %q; want a refusal that says how to make one", code, stderr)
	}
}

func TestSealWithPassphrase(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	root, dir := aRoot(t), t.TempDir()
	pass := put(t, filepath.Join(dir, "pass"), "correct horse battery")
	image := filepath.Join(dir, "image")
	cheap := []string{"--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2"}
	out := sealOK(t, append([]string{root, "-o", image, "--passphrase-file", pass}, cheap...)...)
	if strings.Contains(out, "keep it secret") || strings.Contains(names(t, dir), "image.key") {
		t.Errorf("a key was made beside the passphrase: %s", out)
	}
	oracle.Run(t, cryptsetup, "open", "--test-passphrase", "--key-file", pass, image)
	dump := oracle.Run(t, cryptsetup, "luksDump", image)
	for _, want := range []string{"argon2id", "Time cost:  4", "Memory:     1024", "Threads:    2"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump has no %q:\n%s", want, dump)
		}
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"short":         {[]string{"--passphrase-file", put(t, filepath.Join(dir, "short"), "password123")}, fault.Failed},
		"empty":         {[]string{"--passphrase-file", put(t, filepath.Join(dir, "empty"), "")}, fault.Failed},
		"too expensive": {[]string{"--passphrase-file", pass, "--pbkdf-memory", "2097152"}, fault.Usage},
		"no passes":     {[]string{"--passphrase-file", pass, "--pbkdf-force-iterations", "0"}, fault.Usage},
		"with a key":    {[]string{"--passphrase-file", pass, "--key-out", filepath.Join(dir, "k")}, fault.Usage},
		"costs alone":   {[]string{"--pbkdf-memory", "1024"}, fault.Usage},
		"is the output": {[]string{"--passphrase-file", pass, "--cmdline-out", pass, "--force"}, fault.Usage},
	} {
		args := append([]string{"seal", "--allow", "no-init", root, "-o", filepath.Join(dir, "other")}, c.args...)
		if code, _, stderr := call(t, args...); code != c.code || strings.Contains(stderr, "correct horse") {
			t.Errorf("%s = %d, %q; want %d", name, code, stderr, c.code)
		}
	}
	if data, _ := os.ReadFile(pass); string(data) != "correct horse battery" {
		t.Error("the passphrase file was changed")
	}
}

func TestSealAudits(t *testing.T) {
	root, dir := aRoot(t), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root, "etc/shadow"), "root::19000:0:99999:7:::\n")
	image := filepath.Join(dir, "image")
	code, _, stderr := call(t, "seal", root, "-o", image, "--allow", "no-init")
	if code != fault.Failed || !strings.Contains(stderr, "empty-password: /etc/shadow") || !strings.Contains(stderr, "--allow empty-password") {
		t.Errorf("seal = %d, %q; want a refusal that names empty-password and --allow", code, stderr)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the refused seal left %s", got)
	}
	sealOK(t, root, "-o", image, "--allow", "empty-password")
	if code, _, stderr := call(t, "seal", root, "-o", image, "--force", "--allow", "anything"); code != fault.Usage || !strings.Contains(stderr, "cloud-init") {
		t.Errorf("unknown name = %d, %q; want a usage error that lists the names", code, stderr)
	}
}

func TestSealOntoItsSource(t *testing.T) {
	root, dir := aRoot(t), t.TempDir()
	image := filepath.Join(dir, "image")
	sealOK(t, root, "-o", image)
	link := filepath.Join(dir, "link")
	if err := os.Link(image, link); err != nil {
		t.Fatal(err)
	}
	key := put(t, filepath.Join(dir, "key"), strings.Repeat("k", 64))
	for name, args := range map[string][]string{
		"itself":         {image, "-o", image, "--force"},
		"hard link":      {link, "-o", image, "--force"},
		"in the folder":  {root, "-o", filepath.Join(root, "image")},
		"deeper":         {root, "-o", filepath.Join(root, "sbin/image")},
		"over the key":   {root, "-o", image, "--key-file", key, "--manifest-out", key, "--force"},
		"through a link": {dir + "/../" + filepath.Base(dir) + "/link", "-o", image, "--force"},
	} {
		if code, _, stderr := call(t, append([]string{"seal"}, args...)...); code != fault.Usage {
			t.Errorf("%s = %d, %q; want a usage error", name, code, stderr)
		}
	}
}

// TestSealEvents: a program gets events on standard error, and only the manifest
// on standard output.
func TestSealEvents(t *testing.T) {
	code, out, stderr := call(t, "seal", aRoot(t), "-o", filepath.Join(t.TempDir(), "image"), "--json", "--allow", "no-init")
	if code != fault.OK || !json.Valid([]byte(out)) {
		t.Fatalf("seal --json = %d, %q", code, out)
	}
	var last event
	steps := map[string]bool{}
	for line := range strings.Lines(stderr) {
		if err := json.Unmarshal([]byte(line), &last); err != nil || last.Event != "progress" {
			t.Fatalf("%q is not an event: %v", line, err)
		}
		steps[last.Step] = true
	}
	if len(steps) != 2 || last.Done != last.Total || last.Total == 0 || last.Left != 0 {
		t.Errorf("steps %v, at the end %+v; want two steps and an end", steps, last)
	}
}

// TestSealStops: an interrupt ends it within a second, and leaves nothing.
func TestSealStops(t *testing.T) {
	tool := oracle.Artifact(t, "cocoroot")
	dir := t.TempDir()
	pipe, silent, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cmd := exec.Command(tool, "seal", "-", "-o", filepath.Join(dir, "image"))
	cmd.Stdin = pipe
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for names(t, dir) == "" {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	begin := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("success after an interrupt")
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v to stop", took)
	}
	if got := names(t, dir); got != "" || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("left %q, said %q", got, stderr.String())
	}
}

// TestSealOnFullDisk fills a small file system.
func TestSealOnFullDisk(t *testing.T) {
	root := aRoot(t)
	packed := filepath.Join(t.TempDir(), "root.tar")
	oracle.Run(t, "tar", "-C", root, "-cf", packed, ".")
	archive := filepath.Join(t.TempDir(), "archive.tar")
	oracle.Run(t, "tar", "-C", aContainer(t, service), "-cf", archive, ".")
	for _, tc := range [][2]string{{"200k", root}, {"200k", packed}, {"200k", archive}, {"1500k", root}} { // no room for the file system; none for the image
		size, root := tc[0], tc[1]
		t.Run(size+" "+filepath.Base(root), func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
				oracle.Forbidden(t, "cannot mount a small disk: %v", err)
			}
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
			image := put(t, filepath.Join(dir, "image"), "old")
			code, _, stderr := call(t, "seal", "--allow", "no-init", "--force", root, "-o", image)
			if code != fault.Failed || !strings.Contains(strings.ToLower(stderr), "no space left") || strings.Contains(stderr, "cannot read") {
				t.Errorf("seal = %d, %q; want the reason", code, stderr)
			}
			if got, err := os.ReadFile(image); err != nil || string(got) != "old" || names(t, dir) != "image" {
				t.Errorf("left %s, and in image %q, %v; want the old file only", names(t, dir), got, err)
			}
		})
	}
}

// loop makes a block device of a file.
func loop(t *testing.T, file string, options ...string) string {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "losetup"), append(options, "-f", "--show", file)...).Output()
	if err != nil {
		oracle.Forbidden(t, "cannot make a loop device: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", device).Run() })
	return device
}

// TestSealReadError: a disk that fails in the middle is an error, and what was
// there before stays.
func TestSealReadError(t *testing.T) {
	dir := t.TempDir()
	ready, image := filepath.Join(dir, "fs"), filepath.Join(dir, "image")
	root := aRoot(t)
	noise := make([]byte, 8<<20)
	rand.New(rand.NewSource(1)).Read(noise)
	put(t, filepath.Join(root, "noise"), string(noise))
	oracle.Run(t, oracle.Tool(t, "mksquashfs"), root, ready, "-quiet", "-no-progress")
	device := loop(t, ready, "-r")
	sealOK(t, device, "-o", image)
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	fill, err := os.OpenFile(ready, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	// A hole in the middle that the disk cannot give: the file after it ends.
	disk, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	switch err := errors.Join(fill.Truncate(4<<20), unix.IoctlSetInt(int(disk.Fd()), unix.BLKFLSBUF, 0)); {
	case errors.Is(err, unix.EACCES):
		oracle.Forbidden(t, "a disk's buffers cannot be flushed")
	case err != nil:
		t.Fatal(err)
	}
	code, _, stderr := call(t, "seal", "--allow", "no-init", device, "-o", image, "--force")
	if code != fault.Failed || !strings.Contains(stderr, " read") {
		t.Errorf("seal = %d, %q; want an error of reading", code, stderr)
	}
	if after, _ := os.ReadFile(image); !bytes.Equal(before, after) {
		t.Error("the image from before was changed")
	}
	if got := names(t, dir); got != "fs image image.cmdline image.key image.manifest.json" {
		t.Errorf("left %s", got)
	}
}

// TestSealOntoDevice writes to a block device where it stands.
func TestSealOntoDevice(t *testing.T) {
	dir := t.TempDir()
	device := func(size int64) string {
		backing := put(t, filepath.Join(dir, "backing"), "")
		if err := os.Truncate(backing, size); err != nil {
			t.Fatal(err)
		}
		return loop(t, backing)
	}
	in := t.TempDir()
	outputs := []string{"--cmdline-out", filepath.Join(in, "line"), "--manifest-out", filepath.Join(in, "manifest"), "--key-out", filepath.Join(in, "key")}
	disk := device(64 << 20)
	args := append([]string{"seal", "--allow", "no-init", aRoot(t), "-o", disk}, outputs...)
	if code, _, stderr := call(t, args...); code != fault.Failed || !strings.Contains(stderr, "--force writes over") {
		t.Errorf("without --force = %d, %q", code, stderr)
	}
	if code, _, stderr := call(t, args[:6]...); code != fault.Usage {
		t.Errorf("without the other outputs = %d, %q; want a usage error", code, stderr)
	}
	if code, _, stderr := call(t, append(args, "--force")...); code != fault.OK {
		t.Fatalf("seal = %d, %q", code, stderr)
	}
	if code, out, stderr := call(t, "verify", disk, "--manifest", filepath.Join(in, "manifest"), "--key-file", filepath.Join(in, "key")); code != fault.OK {
		t.Errorf("verify = %d, %q, %q", code, out, stderr)
	}
	small := device(1 << 20)
	args[5] = small
	if code, _, stderr := call(t, append(args, "--force")...); code != fault.Failed || !strings.Contains(stderr, "it was not touched") {
		t.Errorf("too small = %d, %q", code, stderr)
	}
	if data, err := os.ReadFile(small); err != nil || strings.Trim(string(data), "\x00") != "" {
		t.Errorf("the device that is too small was written to: %v", err)
	}
}

// TestStockToolsTakeIt has the stock tools verify, open and decrypt what seal
// made of a ready file system, and compares the whole of it.
func TestStockToolsTakeIt(t *testing.T) {
	cryptsetup, veritysetup := oracle.Tool(t, "cryptsetup"), oracle.Tool(t, "veritysetup")
	dir := t.TempDir()
	ready, image := filepath.Join(dir, "fs"), filepath.Join(dir, "image")
	oracle.Run(t, oracle.Tool(t, "mksquashfs"), aRoot(t), ready, "-quiet", "-no-progress")
	pass := put(t, filepath.Join(dir, "pass"), "correct horse battery")
	for name, args := range map[string][]string{
		"generated":  nil,
		"passphrase": {"--passphrase-file", pass, "--pbkdf-memory", "1024", "--pbkdf-parallel", "2"},
	} {
		sealOK(t, append([]string{ready, "-o", image, "--force"}, args...)...)
		key := image + ".key"
		if args != nil {
			key = pass
		}
		line, err := os.ReadFile(image + ".cmdline")
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse(string(line))
		if err != nil {
			t.Fatal(err)
		}
		offset := fmt.Sprintf("--hash-offset=%d", p.Image.DataSize())
		oracle.Run(t, veritysetup, "verify", image, image, fmt.Sprintf("%x", p.Image.RootHash), offset)
		dump := oracle.Run(t, veritysetup, "dump", offset, image)
		for _, want := range []string{fmt.Sprintf("Data blocks:     \t%d\n", p.Image.DataBlocks), p.Image.SaltText(), "Hash algorithm:  \tsha256\n"} {
			if !strings.Contains(dump, want) {
				t.Errorf("%s: veritysetup dump has no %q:\n%s", name, want, dump)
			}
		}
		oracle.Run(t, cryptsetup, "luksDump", image)
		oracle.Run(t, cryptsetup, "open", "--test-passphrase", "--key-file", key, image)
		if err := os.Truncate(image, int64(p.Image.DataSize())); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, cryptsetup, "reencrypt", "-q", "--decrypt", "--force-offline-reencrypt", "--header", filepath.Join(dir, "header."+name), "--key-file", key, image)
		want, errWant := os.ReadFile(ready)
		got, err := os.ReadFile(image)
		if err != nil || errWant != nil {
			t.Fatal(err, errWant)
		}
		if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
			t.Errorf("%s: cryptsetup decrypts to something else than went in", name)
		}
	}
}

// TestSealCompression: a level that is not zstd's is a usage error, and another
// level gives another file system.
func TestSealCompression(t *testing.T) {
	root, dir := aRoot(t), t.TempDir()
	for _, level := range []string{"0", "23", "x"} {
		if code, _, stderr := call(t, "seal", root, "-o", filepath.Join(dir, "bad"), "--compression", level); code != fault.Usage {
			t.Errorf("--compression %s = %d, %q; want a usage error", level, code, stderr)
		}
	}
	sizes := map[string]int64{}
	for _, level := range []string{"1", "9"} {
		image := filepath.Join(dir, level)
		sealOK(t, root, "-o", image, "--compression", level)
		fi, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		sizes[level] = fi.Size()
	}
	if sizes["9"] >= sizes["1"] {
		t.Errorf("bytes by level: %v; want fewer at 9", sizes)
	}
}
