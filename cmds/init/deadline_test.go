package main_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/sealed"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/verity"
)

const (
	// timeout is what the boots here wait for the disk; for the rest they
	// have four times as long.
	timeout  = 4 * time.Second
	deadline = 5 * timeout
	// late is how long after that the FATAL line may come: the end of the
	// child, the watchdog, what holds up the end, and a busy machine.
	late = 5*time.Second + time.Second + 3*2*time.Second + 10*time.Second
)

const (
	// initStarts is what the kernel says when it starts init.
	initStarts = "Run /init as init process"
	// initRuns is what init prints before it looks for the disk, whose
	// partition table the kernel has looked for by then.
	initRuns = "kernel modules loaded"
)

// failsInTime boots a guest with little patience that must end with the code
// by its deadline. What the host holds up is let go once the FATAL line is
// there and, with the guest still running or already off, the secrets are not.
func (g *guest) failsInTime(t *testing.T, code string, let func()) ended {
	t.Helper()
	g.cmdline += " loglevel=7 cocoroot.timeout=" + timeout.String()
	began, fataled := g.watch.on(initStarts), g.watch.on("cocoroot: FATAL")
	area, done := secretArea(t, g.firmware), make(chan struct{})
	before := g.onStart
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		if before != nil {
			if err := before(ctx, q); err != nil {
				return err
			}
		}
		go func() {
			defer close(done)
			defer let()
			select {
			case at := <-fataled:
				took := at.Sub(<-began)
				t.Logf("%s after %s", code, took.Round(time.Millisecond))
				if took > deadline+late {
					t.Errorf("the boot took %s; want %s, and at most %s more", took, deadline, late)
				}
			case <-ctx.Done():
				return
			}
			// QEMU itself waits for the disk once the guest is off, and only then
			// answers.
			pages := make(chan []byte, 1)
			go func() {
				if page, err := readMemory(ctx, t, q, uint64(area.Base), uint64(area.Size)); err == nil {
					pages <- page
				}
			}()
			select {
			case page := <-pages:
				g.wiped(t, ended{page: page})
			case <-time.After(5 * time.Second):
			}
		}()
		return nil
	}
	e := g.fails(t, code)
	<-done
	return e
}

// A disk that stops answering, at each step that reads it.
func TestDiskStopsAnswering(t *testing.T) {
	t.Parallel()
	p := standardImage(t).policy.Image
	for name, from := range some(t, map[string]uint64{
		"hash tree":   p.HashStart() * verity.BlockSize,
		"LUKS header": 4096,
		"keyslot":     32768,
		"root":        format.RegionSize,
	}, "hash tree", "root") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			d := serveDisk(t, g.image, func(offset uint64, data []byte) verdict {
				if !g.watch.has(initRuns) || offset+uint64(len(data)) <= from || offset >= from+verity.BlockSize {
					return answered
				}
				return hangs
			})
			g.image, g.extra = "", d.arguments()
			g.failsInTime(t, "DEADLINE", d.release)
			if !d.isHung() {
				t.Error("the disk was never asked for what it does not answer")
			}
		})
	}
}

// A disk that answers nothing from the guest's first instruction on. Firmware
// that reads disks, as Debian's does, would wait for it in the kernel's place.
func TestDiskNeverAnswers(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	var on atomic.Bool // QEMU itself reads the disk before
	d := serveDisk(t, g.image, func(uint64, []byte) verdict {
		if on.Load() {
			return hangs
		}
		return answered
	})
	g.image, g.extra = "", d.arguments()
	g.onStart = func(context.Context, *qmp.Client) error {
		on.Store(true)
		return nil
	}
	e := g.failsInTime(t, "DEADLINE", d.release)
	if !d.isHung() || strings.Contains(e.console, initRuns) {
		t.Error("the disk answered when its driver was started")
	}
}

// A disk that answers one block a second, which is too little.
func TestDiskTooSlow(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.throttle("throttling.iops-total=1,throttling.iops-size=4096")
	g.failsInTime(t, "DEADLINE", func() {})
}

// sealedWith returns the image of most boots with another key derivation.
func sealedWith(t *testing.T, kdf luks2.KDF) sealedImage {
	t.Helper()
	s := standardImage(t)
	return sealRoot(t, filepath.Join(filepath.Dir(s.path), "root"), s.key, kdf)
}

// sealRoot seals a root with a key derivation of the test's choice.
func sealRoot(t *testing.T, root string, passphrase []byte, kdf luks2.KDF) sealedImage {
	t.Helper()
	dir := t.TempDir()
	fs := filepath.Join(dir, "fs")
	makeSquashfs(t, root, fs)
	plain := read(t, fs)
	s := sealedImage{path: filepath.Join(dir, "image"), key: passphrase, policy: standardImage(t).policy}
	out, err := os.Create(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	result, err := sealed.Write(t.Context(), out, bytes.NewReader(plain), int64(len(plain)), sealed.Options{Passphrase: s.key, KDF: kdf})
	if err != nil {
		t.Fatal(err)
	}
	s.policy.Image = result.Params
	if s.cmdline, err = cmdline.Build(s.policy, cmdline.Options{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// A key derivation that the allow-list lets through, on a machine that is too
// slow for it.
func TestSlowKeyDerivation(t *testing.T) {
	t.Parallel()
	sealedWith(t, format.PBKDF2(luks2.MaxIterations)).boots(t).failsInTime(t, "DEADLINE", func() {})
}

// withBallast returns an archive that fills so much of the guest's memory.
func withBallast(t *testing.T, initrd string, size int) string {
	t.Helper()
	var plain, packed bytes.Buffer
	w := cpio.Newc.Writer(&plain)
	if err := w.WriteRecord(cpio.StaticFile("ballast", string(make([]byte, size)), 0o400)); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.WriteTo(z); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "initrd")
	write(t, out, append(read(t, initrd), packed.Bytes()...))
	return out
}

// A panic cannot wipe; it must not stand there with the secret either.
func TestPanicResets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g := seal(t, dir, testRoot(t, dir, "exit 3")).boots(t)
	e := g.run(t, bootLimit)
	if e.err != nil || !strings.Contains(e.Panic, "Attempted to kill init") || e.Reason != "guest-reset" {
		t.Errorf("outcome = %+v, %v; want a panic and a reset", e.Outcome, e.err)
	}
}
