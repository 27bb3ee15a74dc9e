package main_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/oracle"
)

// stateUnit says on the console how systemd finds itself once the boot is
// over, and powers off. It opens the console for every line, for the getty
// there hangs it up when it starts.
const stateUnit = `[Unit]
Description=Report the state of the system
After=multi-user.target

[Service]
ExecStart=/bin/sh -c ' \
  state=$(systemctl is-system-running --wait); \
  echo "boot-test: state $state" >/dev/console; \
  echo "boot-test: target $(systemctl is-active multi-user.target)" >/dev/console; \
  systemctl --failed --no-legend --plain | sed "s/^/boot-test: failed /" >/dev/console; \
  systemctl poweroff'

[Install]
WantedBy=multi-user.target
`

// TestDebian boots a real Debian 12 root with systemd to multi-user.target.
func TestDebian(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root.tar")
	addToTar(t, oracle.Artifact(t, "debian12.tar"), root)
	g := seal(t, dir, root).boots(t)
	g.memory = 2048
	e := g.run(t, 2*bootLimit)
	if e.err != nil || e.Reason != "guest-shutdown" || e.Fatal != nil || e.Panic != "" {
		t.Fatalf("outcome = %+v, %v; want a clean power-off", e.Outcome, e.err)
	}
	for _, want := range []string{"boot-test: state running", "boot-test: target active"} {
		if !strings.Contains(e.console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if strings.Contains(e.console, "boot-test: failed") {
		t.Error("units failed")
	}
	g.wiped(t, e)
}

// addToTar copies a tar and adds the unit and its link.
func addToTar(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r, w := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	const unit = "/etc/systemd/system/cocoroot-state.service"
	if err := w.WriteHeader(&tar.Header{Name: "." + unit, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(stateUnit))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, stateUnit); err != nil {
		t.Fatal(err)
	}
	link := &tar.Header{Name: "./etc/systemd/system/multi-user.target.wants/cocoroot-state.service", Typeflag: tar.TypeSymlink, Linkname: unit, Mode: 0o777}
	if err := w.WriteHeader(link); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestURootCarriesInit boots an archive that u-root's own builder made with
// our init as its -initcmd.
func TestURootCarriesInit(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.initrd = urootInitrd(t, true)
	g.wiped(t, g.runs(t))
}

// urootInitrd builds an archive with u-root: init, and if wanted the kernel
// modules and their list.
func urootInitrd(t *testing.T, withModules bool) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "initramfs.cpio")
	args := []string{"tool", "u-root", "-o", out, "-initcmd=/bin/cocoroot-init", "-defaultsh=", "-files=" + oracle.Artifact(t, "init") + ":bin/cocoroot-init"}
	if withModules {
		tree := oracle.Artifact(t, "modules/lib/modules")
		found, err := filepath.Glob(tree + "/*/kernel/drivers/virt/coco/efi_secret/efi_secret.ko")
		if err != nil || len(found) != 1 {
			t.Fatalf("efi_secret.ko = %v, %v; want one", found, err)
		}
		list := filepath.Join(t.TempDir(), "modules")
		write(t, list, []byte("/lib/modules/efi_secret.ko\n"))
		args = append(args, "-files="+found[0]+":lib/modules/efi_secret.ko", "-files="+list+":etc/cocoroot/modules")
	}
	// One command of u-root's goes with it; the list of commands cannot be empty.
	args = append(args, "github.com/u-root/u-root/cmds/core/true")
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("u-root: %v\n%s", err, text)
	}
	return out
}
