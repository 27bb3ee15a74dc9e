package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// What a kernel lacks for a guest is said, with the way to get it, by where
// the tool looks for modules.
func TestInitrdHints(t *testing.T) {
	dir := t.TempDir()
	init := put(t, filepath.Join(dir, "init"), "init")
	tree := filepath.Join(dir, "usr/lib/modules/6.12")
	for _, sub := range []string{tree, filepath.Join(dir, "lib/modules/6.1")} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(more ...string) string {
		args := []string{"initrd", "-o", filepath.Join(dir, "out"), "--init", init, "--modules", dir}
		code, _, stderr := call(t, append(args, more...)...)
		if code != fault.Failed {
			t.Errorf("initrd %q = %d; want %d", more, code, fault.Failed)
		}
		return stderr
	}
	if got := run(); !strings.Contains(got, "6.1, 6.12") {
		t.Errorf("without a version: %q; want the two that there are", got)
	}
	if got := run("--kver", "6.12"); !strings.Contains(got, "hint: depmod -b "+dir+" 6.12 ") {
		t.Errorf("without modules.dep: %q; want the way to make it", got)
	}
	// Everything is built in but the driver for the secrets.
	builtIn := func(more string) {
		put(t, filepath.Join(tree, "modules.builtin"), more+"kernel/drivers/md/dm-mod.ko\nkernel/drivers/md/dm-crypt.ko\nkernel/drivers/md/dm-verity.ko\nkernel/crypto/cryptomgr.ko\n")
		put(t, filepath.Join(tree, "modules.builtin.modinfo"), "a.alias=crypto-aes\x00b.alias=crypto-xts\x00c.alias=crypto-sha256\x00")
		oracle.Run(t, oracle.Tool(t, "depmod"), "-b", filepath.Join(dir, "usr"), "6.12")
	}
	builtIn("")
	got := run("--kver", "6.12") // the init is none
	if !strings.Contains(got, "warning: a guest with kernel 6.12 has no efi_secret: ") || !strings.Contains(got, "NO-EFI-SECRET") {
		t.Errorf("without efi_secret: %q; want a warning", got)
	}
	// A guest that asks its owner needs another one.
	if got := run("--kver", "6.12", "--channel", "serial"); !strings.Contains(got, "sev_guest: ") {
		t.Errorf("without sev-guest: %q; want its name", got)
	}
	builtIn("kernel/drivers/virt/coco/sev-guest/sev-guest.ko\n")
	if got := run("--kver", "6.12", "--channel", "tcp"); strings.Contains(got, "efi_secret") || !strings.Contains(got, "warning: a guest with kernel 6.12 has no virtio_net: ") {
		t.Errorf("for a channel over TCP: %q; want a warning of virtio_net and none of efi_secret", got)
	}
}

// A device has no end.
func TestInitrdOfDevice(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	if code, _, stderr := call(t, "initrd", "-o", out, "--init", "/dev/zero"); code != fault.Failed || !strings.Contains(stderr, "cannot read /dev/zero: it has more than") {
		t.Errorf("initrd = %d, %q; want 1 and the reason", code, stderr)
	}
}
