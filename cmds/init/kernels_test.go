package main_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/archive/kmod"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/modules"
)

// withModules builds an archive for a kernel with the tool that users have,
// and returns what the tool says beside it.
func withModules(t *testing.T, dir string) (initrd, said string) {
	t.Helper()
	initrd = filepath.Join(t.TempDir(), "initrd.img")
	said = oracle.Run(t, oracle.Artifact(t, "cocoroot"), "initrd", "-o", initrd, "--init", oracle.Artifact(t, "init"), "--modules", dir)
	return initrd, said
}

// A module that does not load ends the boot, also an optional one unless its
// device is missing; the driver for the secrets is there by then.
func TestModuleRefused(t *testing.T) {
	for name, broken := range map[string]modules.Entry{
		"needed":   {Path: "/lib/modules/broken.ko"},
		"optional": {Path: "/lib/modules/broken.ko", Optional: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			choice, err := kmod.Choose(oracle.Artifact(t, "modules"), "")
			if err != nil {
				t.Fatal(err)
			}
			c := archive.Contents{Init: read(t, oracle.Artifact(t, "init")), Modules: choice.Modules}
			c.Modules = append(c.Modules, archive.Module{Entry: broken, Data: []byte("\x7fELF and no more")})
			var b bytes.Buffer
			if err := archive.Write(&b, c); err != nil {
				t.Fatal(err)
			}
			g.initrd = filepath.Join(t.TempDir(), "initrd.img")
			write(t, g.initrd, b.Bytes())
			e := g.fails(t, "MODULE")
			if !strings.Contains(e.Fatal.Text, "broken.ko") {
				t.Errorf("FATAL text = %q; want the module's name", e.Fatal.Text)
			}
		})
	}
}

// Debian's kernel finds the disk with its own drivers, and ends before it uses
// any secret: it cannot receive one.
func TestDebianKernel(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	dir := oracle.Artifact(t, "debian-kernel")
	var said string
	g.kernel = filepath.Join(dir, "bzImage")
	g.initrd, said = withModules(t, dir)
	if !strings.Contains(said, "cocoroot: warning: ") || !strings.Contains(said, "NO-EFI-SECRET") {
		t.Errorf("cocoroot initrd said %q; want a warning of NO-EFI-SECRET", said)
	}
	g.entries = nil // nobody in the guest could wipe one
	e := g.fails(t, "NO-EFI-SECRET")
	rest := e.console
	for _, want := range []string{"kernel modules loaded", "cocoroot: disk /dev/vda", "cocoroot: FATAL NO-EFI-SECRET: the kernel has no efi_secret driver; "} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Errorf("the console lacks %q, or it comes too early", want)
		}
		rest = after
	}
	if strings.Contains(e.console, "cocoroot: 0 kernel modules loaded") {
		t.Error("no module was loaded")
	}
}
