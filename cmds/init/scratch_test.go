package main_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cocoroot/initramfs/oracle"
)

// aeadError is what dm-crypt says of a block that its key has not written.
const aeadError = "INTEGRITY AEAD ERROR"

// lookFrom is what the program prints when the host is to look. (The kernel
// prints the command line, in which the command is.)
const lookFrom = "boot-test: look from here"

// scratchScript does what stands after "--" on the command line.
const scratchScript = `
echo "boot-test: scratch $(grep '"scratch"' /run/cocoroot/status.json)"
echo "boot-test: loops $(cat /sys/block/loop*/loop/dio | tr '\n' ' ')"
look() { echo "` + lookFrom + `"; }
eval "$*" && echo "boot-test: done"
`

// scratchImage is the image of the tests here, sealed once.
var scratchImage struct {
	once  sync.Once
	image sealedImage
}

// scratchGuest boots an image whose writable layer is a disk, and whose program
// runs the command.
func scratchGuest(t *testing.T, disk string, command ...string) *guest {
	t.Helper()
	standardImage(t) // its folder is removed at the end
	scratchImage.once.Do(func() {
		dir := filepath.Join(standard.dir, "scratch")
		root := testRoot(t, dir, scratchScript)
		for name, content := range map[string]string{"kept": "a", "removed": "b", "gone/x": "c", "again/old": "d"} {
			path := filepath.Join(root, "usr/share/churn", name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, path, []byte(content))
		}
		buildProgram(t, root, "writer")
		buildProgram(t, root, "reader")
		scratchImage.image = seal(t, dir, root, "--append", bounceArguments+" no_timer_check cocoroot.overlay=ephemeral:serial:scratch")
	})
	if scratchImage.image.path == "" {
		t.Fatal("the image could not be sealed")
	}
	g := scratchImage.image.boots(t)
	if len(command) > 0 {
		g.cmdline += " -- " + strings.Join(command, " ")
	}
	if disk != "" {
		g.extra = append(g.extra, scratchDisk(disk, "")...)
	}
	return g
}

// buildProgram puts a program of testdata into a root's /bin.
func buildProgram(t testing.TB, root, name string) {
	t.Helper()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(root, "bin", name), "./testdata/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

// scratchDisk returns QEMU's arguments for a file as the scratch disk.
func scratchDisk(path, more string) []string {
	return []string{
		"-drive", "if=none,id=scratch,format=raw,cache=unsafe,file=" + path + more,
		"-device", "virtio-blk-pci,drive=scratch,serial=scratch",
	}
}

// emptyDisk makes a file without content.
func emptyDisk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scratch")
	write(t, path, nil)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// worked checks that the guest's program has done what it was to do, and that
// the kernel met no block that was not written by this guest.
func worked(t *testing.T, e ended) {
	t.Helper()
	for _, want := range []string{"boot-test: done", `"scratch": "/dev/vd`, "loops 0 0 "} {
		if !strings.Contains(e.console, want) {
			t.Errorf("the console does not have %q", want)
		}
	}
	for _, bad := range []string{aeadError, "BTRFS error", "BTRFS warning", "I/O error"} {
		if strings.Contains(e.console, bad) {
			t.Errorf("the console has %q", bad)
		}
	}
}

const mib = 1 << 20

// The disk may hold anything at all.
func TestScratchTakesAnyDisk(t *testing.T) {
	t.Parallel()
	for name, prepare := range some(t, map[string]func(t *testing.T, disk *os.File){
		"zeros": func(*testing.T, *os.File) {},
		"random": func(t *testing.T, disk *os.File) {
			b := make([]byte, 128*mib)
			rand.Read(b)
			put(t, disk, b, 0)
		},
		"an earlier scratch": func(t *testing.T, disk *os.File) {
			g := scratchGuest(t, disk.Name(), "writer", "write", "/file", "8388608")
			worked(t, g.runs(t))
		},
		// The template's own identity, which no volume has.
		"btrfs": func(t *testing.T, disk *os.File) {
			put(t, disk, read(t, oracle.Fixture(t, "btrfs/image")), 0)
		},
		// The kernel crashes at one like it.
		"a superblock with a bitmap": func(t *testing.T, disk *os.File) {
			b := bytes.Repeat([]byte{0xff}, 8*mib)
			copy(b, "integrt\x00\x03\x0f\x20\x00")
			binary.LittleEndian.PutUint32(b[12:], 1)      // sections
			binary.LittleEndian.PutUint64(b[16:], 1<<40)  // sectors
			binary.LittleEndian.PutUint32(b[24:], 1<<2|8) // DIRTY_BITMAP
			binary.LittleEndian.PutUint64(b[28:], 0x0c03) // logarithms
			clear(b[36:4096])
			put(t, disk, b, 0)
		},
	}, "random", "a superblock with a bitmap") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := emptyDisk(t, 272*mib)
			disk, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			prepare(t, disk)
			g := scratchGuest(t, path, "writer", "write", "/file", "8388608", "&&", "writer", "check", "/file", "1")
			worked(t, g.runs(t))
		})
	}
}

func put(t *testing.T, f *os.File, data []byte, offset int64) {
	t.Helper()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

// Without the disk there is no boot: what was to be on it is not kept in memory.
func TestScratchFails(t *testing.T) {
	t.Parallel()
	for name, extra := range some(t, map[string]func(t *testing.T) []string{
		"absent":    func(*testing.T) []string { return nil },
		"too small": func(t *testing.T) []string { return scratchDisk(emptyDisk(t, 256*mib), "") },
		"tiny":      func(t *testing.T) []string { return scratchDisk(emptyDisk(t, 4096), "") },
		"read-only": func(t *testing.T) []string { return scratchDisk(emptyDisk(t, 272*mib), ",readonly=on") },
	}, "absent", "too small") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := scratchGuest(t, "", "true")
			g.cmdline = strings.Replace(g.cmdline, " -- ", " cocoroot.timeout=6s -- ", 1)
			g.extra = append(g.extra, extra(t)...)
			g.fails(t, "SCRATCH")
		})
	}
}

// Sixteen writers fill the disk, and read back what they wrote.
func TestScratchFull(t *testing.T) {
	t.Parallel()
	g := scratchGuest(t, emptyDisk(t, 272*mib), "writer", "fill", "/", "16")
	e := g.runs(t)
	worked(t, e)
	if !strings.Contains(e.console, "writer: filled") {
		t.Error("the disk was not filled")
	}
}

// What a package manager does to an overlay.
func TestScratchChurn(t *testing.T) {
	t.Parallel()
	worked(t, scratchGuest(t, emptyDisk(t, 272*mib), "writer", "churn", "/usr/share/churn", "/srv/fresh").runs(t))
}

// Two boots that write the same leave nothing of it on the disk, and no two
// blocks that are the same.
func TestScratchKeyIsOfOneBoot(t *testing.T) {
	t.Parallel()
	var disks [2][]byte
	for i := range disks {
		path := emptyDisk(t, 272*mib)
		worked(t, scratchGuest(t, path, "writer", "write", "/file", "16777216", "&&", "sync").runs(t))
		disks[i] = read(t, path)[(8+264)*512:] // without the journal, which is not used
	}
	zero := make([]byte, 4096)
	seen, same := make(map[string]bool), 0
	for at := 0; at < len(disks[0]); at += len(zero) {
		seen[string(disks[0][at:][:len(zero)])] = true
	}
	for at := 0; at < len(disks[1]); at += len(zero) {
		if block := disks[1][at:][:len(zero)]; seen[string(block)] && !bytes.Equal(block, zero) {
			same++
		}
	}
	if len(seen) < 16*mib/4096 || same > 0 {
		t.Errorf("of %d blocks of the first boot, the second has %d as well; want none", len(seen), same)
	}
	plaintext := needlesIn{step: 64}
	plaintext.add(written(16 * mib))
	for _, disk := range disks {
		if plaintext.search(disk); plaintext.bytes() > 0 {
			t.Errorf("%d bytes of the file are on the disk as they are", plaintext.bytes())
		}
	}
}

// written is what "writer write" writes (testdata/writer).
func written(size int) []byte {
	out := make([]byte, size)
	for at := 0; at < size; at += 64 << 10 {
		x := uint64(1)<<48 + uint64(at)
		for i := 0; i < 64<<10; i += 8 {
			x += 0x9e3779b97f4a7c15
			z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
			z = (z ^ z>>27) * 0x94d049bb133111eb
			binary.LittleEndian.PutUint64(out[at+i:], z^z>>31)
		}
	}
	return out
}

// A host fails every other read and looks into the bounce buffers whenever it
// is asked for something: it finds nothing of what the guest has written, also
// where the guest reads again, and past the page cache.
func TestNoScratchPlaintextInBounceBuffers(t *testing.T) {
	t.Parallel()
	const size = 2 * mib
	g := scratchGuest(t, "", "writer", "write", "/file", "2097152", "&&", "sync", "&&",
		"echo", "3", ">/proc/sys/vm/drop_caches", "&&", "look", "&&",
		"writer", "direct", "/file", ";", "reader", "large", "/file", ";", "reader", "blocks", "/file", ";", "true")
	plaintext, ciphertext := needlesIn{step: 64}, needlesIn{step: 4096}
	plaintext.add(written(size))
	_, buffers := g.looks(t)
	var d *hostDisk
	reads, refused := 0, 0
	var blind error
	d = serveDisk(t, emptyDisk(t, 272*mib), func(_ uint64, data []byte) verdict {
		if !g.watch.has(lookFrom) {
			return answered
		}
		if ciphertext.parts == nil {
			ciphertext.add(d.image)
		}
		memory, err := buffers()
		if err != nil {
			blind = err
			return answered
		}
		plaintext.search(memory)
		if ciphertext.bytes() == 0 {
			ciphertext.search(memory)
		}
		if reads++; len(data) > 4096 && reads%2 == 0 && refused < 200 {
			refused++
			return failed
		}
		return answered
	})
	d.writable = true
	g.extra = append(g.extra, d.as(hostVirtio+",serial=scratch")...)
	e := g.run(t, 2*bootLimit)
	d.release()
	if blind != nil && t.Context().Err() == nil {
		t.Logf("cannot read the bounce buffers: %v", blind)
	}
	t.Logf("%d reads, %d of them failed: %d bytes of plaintext", reads, refused, plaintext.bytes())
	if n := plaintext.bytes(); n > 0 {
		t.Errorf("the host found %d bytes of plaintext", n)
	}
	if ciphertext.bytes() == 0 || refused < 5 {
		t.Error("the host saw no ciphertext either, or failed fewer than 5 reads")
	}
	if e.err != nil || !strings.Contains(e.console, "boot-test: done") {
		t.Errorf("outcome = %+v, %v; want the program's end", e.Outcome, e.err)
	}
}

// Debian's kernel brings all that a scratch disk needs as modules.
func TestScratchOnDebianKernel(t *testing.T) {
	t.Parallel()
	g := scratchGuest(t, emptyDisk(t, 272*mib))
	dir := oracle.Fixture(t, "debian13-kernel")
	g.kernel, g.fakeTSM = filepath.Join(dir, "bzImage"), filepath.Join(dir, "fake_tsm.ko")
	g.initrd, _ = withModules(t, dir, "--channel", "serial", "--writable-disks")
	g = g.asks(t, nil, newAnswering(t, g.entries...), "serial:ttyS2")
	g.cmdline += " -- writer write /file 8388608 && writer check /file 1"
	worked(t, g.runs(t))
}
