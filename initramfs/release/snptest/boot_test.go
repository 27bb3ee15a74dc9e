package snptest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/modules"
)

// boot starts our kernel with the program in testdata/guest, which asks for a
// report for each word, and returns the lines that it prints.
func boot(t *testing.T, p *PSP, words ...string) []string {
	t.Helper()
	qemu := oracle.Tool(t, "qemu-system-x86_64")
	kernel, module := oracle.Artifact(t, "bzImage"), oracle.Fixture(t, "faketsm/fake_tsm.ko")
	program := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	initrd := pack(t, []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.Directory("sys", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(must(os.ReadFile(program))), 0o755),
		cpio.StaticFile("fake_tsm.ko", string(must(os.ReadFile(module))), 0o644),
	})
	args := append(p.Serve(t), "-M", "q35", "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 no_timer_check loglevel=4 -- "+strings.Join(words, " "))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("guest: end")) {
		t.Fatalf("QEMU: %v\n%s", err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line, ok := strings.CutPrefix(line, "guest: "); ok {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// TestFakeTSM boots a guest that reads reports through the kernel's own
// configfs-tsm, and gets what the fake processor gave.
func TestFakeTSM(t *testing.T) {
	t.Parallel()
	p := &PSP{Chip: NewChip("Genoa-B1", TCB{SNP: 23})}
	certs := must(p.Chip.CertTableBytes())
	p.Edit = func(r *sevsnp.Report) { r.Measurement = bytes.Repeat([]byte{0xab}, 48) }
	p.Answer = func(n int, q Request, a Answer) Answer {
		switch q.ReportData[0] {
		case 2:
			a.Certificates = certs
		case 3:
			a.Errno = syscall.EIO
		case 4:
			a.Errno = syscall.ENOTTY
		case 5:
			a.Report = a.Report[:1183]
		case 6:
			a.Others = 1
		case 7:
			a.Delay = 2 * time.Second
		}
		return a
	}
	lines := boot(t, p, "64:1", "64:2", "64:3", "64:4", "64:5", "64:6", "64:7", "64:8:2", "63:9", "65:9")
	requests, answers := p.Asked()
	if len(requests) != 8 {
		t.Fatalf("%d requests: %v; want 8", len(requests), lines)
	}
	got := func(n int, generation int) string {
		return fmt.Sprintf("sev_guest generation %d %s %s", generation, sum(answers[n].Report), sum(answers[n].Certificates))
	}
	failed := func(file string, err string) string { return "read /sys/kernel/config/tsm/report/" + file + ": " + err }
	for i, want := range []string{
		"without a provider: mkdir /sys/kernel/config/tsm/report/x: no such device or address",
		"64:1: " + got(0, 1),
		"64:2: " + got(1, 1),
		"64:3: " + failed("2/outblob", "input/output error"),
		"64:4: " + failed("3/outblob", "inappropriate ioctl for device"),
		"64:5: " + got(4, 1),
		"64:6: " + got(5, 2),
		"64:7: " + got(6, 1),
		"64:8:2: " + got(7, 2),
		"63:9: " + failed("8/outblob", "invalid argument"),
		"65:9: write /sys/kernel/config/tsm/report/9/inblob: file too large",
		"end",
	} {
		if i >= len(lines) || lines[i] != want {
			t.Fatalf("the guest says\n%s\nwant in line %d\n%s", strings.Join(lines, "\n"), i+1, want)
		}
	}
	for i, q := range requests {
		if want := bytes.Repeat([]byte{byte(i + 1)}, 64); !bytes.Equal(q.ReportData[:], want) || (q.VMPL == 2) != (i == 7) {
			t.Errorf("request %d = %v", i, q)
		}
	}
	if len(answers[4].Report) != 1183 || len(answers[0].Report) != 1184 || !bytes.Contains(answers[0].Report, bytes.Repeat([]byte{0xab}, 48)) {
		t.Errorf("reports of %d and %d bytes", len(answers[0].Report), len(answers[4].Report))
	}
}

// The real module is refused by the archive's builder and named by List, and
// Archive's copy differs from the archive in nothing else.
func TestArchive(t *testing.T) {
	initrd, module := oracle.Artifact(t, "initrd.img"), oracle.Fixture(t, "faketsm/fake_tsm.ko")
	m := archive.Module{Entry: modules.Entry{Path: "/lib/modules/a.ko"}, Data: must(os.ReadFile(module))}
	c := archive.Contents{Init: must(os.ReadFile(oracle.Artifact(t, "init"))), Modules: []archive.Module{m}}
	if err := archive.Write(io.Discard, c); !errors.Is(err, archive.ErrFake) {
		t.Errorf("Write error = %v; want ErrFake", err)
	}
	before, after := listing(t, initrd), listing(t, Archive(t, initrd, module))
	if len(before.Problems) != 0 || len(after.Problems) != 1 || !errors.Is(after.Problems[0], archive.ErrFake) {
		t.Errorf("problems = %v, and %v with fake_tsm; want one ErrFake", before.Problems, after.Problems)
	}
	if n := len(before.Modules); len(after.Modules) != n+1 || after.Modules[n].Path != "/lib/modules/fake_tsm.ko" {
		t.Errorf("modules = %v\nwant fake_tsm last after %v", after.Modules, before.Modules)
	}
	if *after.Init != *before.Init || len(after.Foreign) != 0 || len(after.Members) != len(before.Members)+1 {
		t.Errorf("init = %+v, %d members, foreign %v; want %+v, %d, none", after.Init, len(after.Members), after.Foreign, before.Init, len(before.Members)+1)
	}
}

func listing(t *testing.T, path string) archive.Listing {
	t.Helper()
	l, err := archive.List(bytes.NewReader(must(os.ReadFile(path))))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sum is how the guest's program shows bytes.
func sum(b []byte) string { return fmt.Sprintf("%d/%x", len(b), sha256.Sum256(b)) }
