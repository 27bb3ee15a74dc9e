package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/archive/kmod"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/modules"
)

// withModules builds an archive for a kernel with the tool that users have,
// and returns what the tool says beside it.
func withModules(t *testing.T, dir string, more ...string) (initrd, said string) {
	t.Helper()
	initrd = filepath.Join(t.TempDir(), "initrd.img")
	args := append([]string{"initrd", "-o", initrd, "--init", oracle.Artifact(t, "init"), "--modules", dir}, more...)
	said = oracle.Run(t, oracle.Artifact(t, "cocoroot"), args...)
	return initrd, said
}

// A module that does not load ends the boot, also an optional one unless its
// device is missing; the driver for the secrets is there by then.
func TestModuleRefused(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]modules.Entry{
		"needed":   {Path: "/lib/modules/broken.ko"},
		"optional": {Path: "/lib/modules/broken.ko", Optional: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.initrd = initrdWith(t, append(ourModules(t), archive.Module{Entry: broken, Data: []byte("\x7fELF and no more")}))
			e := g.fails(t, "MODULE")
			if !strings.Contains(e.Fatal.Text, "broken.ko") {
				t.Errorf("FATAL text = %q; want the module's name", e.Fatal.Text)
			}
		})
	}
}

// ourModules returns what the archive carries for the kernel of most boots.
func ourModules(t *testing.T) []archive.Module {
	t.Helper()
	choice, err := kmod.Choose(oracle.Artifact(t, "modules"), "", kmod.Guest{})
	if err != nil {
		t.Fatal(err)
	}
	return choice.Modules
}

// initrdWith writes an archive with these modules.
func initrdWith(t *testing.T, all []archive.Module) string {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Write(&b, archive.Contents{Init: read(t, oracle.Artifact(t, "init")), Modules: all}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "initrd.img")
	write(t, out, b.Bytes())
	return out
}

// The archive has no driver for the secrets, and the kernel has it not built in.
func TestKernelWithoutDriver(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.initrd = initrdWith(t, slices.DeleteFunc(ourModules(t), func(m archive.Module) bool { return strings.Contains(m.Entry.Path, kmod.EFISecret) }))
	g.entries = nil // nobody in the guest could wipe it
	g.fails(t, "NO-EFI-SECRET")
}

// modulesScript tries to load a module that the kernel has already: whether it
// may comes before what it is.
const modulesScript = `echo "boot-test: $(insmod $(find / -xdev -name '*.ko') 2>&1)"`

// What the image may load: nothing, unless it has modules of its own, or the
// owner says otherwise.
func TestModulesClosed(t *testing.T) {
	t.Parallel()
	const closed, open = "Operation not permitted", "File exists"
	for name, tc := range some(t, map[string]struct{ folder, appended, want string }{
		"none of its own":               {"opt", "", closed},
		"none, and left open":           {"opt", "cocoroot.modules=open", open},
		"some of its own":               {"lib/modules", "", open},
		"some, and closed by the owner": {"usr/lib/modules", "cocoroot.modules=closed", closed},
	}, "none of its own", "some of its own") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			root := testRoot(t, dir, modulesScript)
			if err := os.MkdirAll(filepath.Join(root, tc.folder), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(root, tc.folder, "loaded.ko"), ourModules(t)[0].Data)
			if e := seal(t, dir, root, "--append", tc.appended).boots(t).runs(t); !strings.Contains(e.console, tc.want) {
				t.Errorf("the console lacks %q", tc.want)
			}
		})
	}
}

// Debian's kernel finds the disk with its own drivers, and ends before it uses
// any secret: it cannot receive one.
func TestDebianKernel(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	dir := oracle.Fixture(t, "debian-kernel")
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
