package main_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/verity"
)

// What is not measured does nothing: the guest boots its image as if it were
// not there, or does not boot.

// planted stands in everything that the host offers here.
const planted = "HOSTILE-0123456789"

// undisturbed boots a guest whose program must find what it finds undisturbed.
func (g *guest) undisturbed(t *testing.T) ended {
	t.Helper()
	e := g.runs(t)
	g.wiped(t, e)
	for _, want := range []string{
		"boot-test: arguments \r\n",
		"boot-test: environment HOME=/ PATH=/bin PWD=/ SHLVL=1 TERM=linux \r\n",
		"boot-test: mounts / /dev /proc /run /run/cocoroot/secrets /sys /sys/kernel/security \r\n",
		"boot-test: entries \r\n",
		"boot-test: root is writable\r\n",
		"boot-test: late file read\r\n",
	} {
		if !strings.Contains(e.console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if strings.Contains(e.console, planted) {
		t.Errorf("the console has %s", planted)
	}
	return e
}

// TestHostOffers boots beside everything that a host can hand to a guest
// unmeasured: firmware configuration, SMBIOS strings, disks, a CD-ROM.
func TestHostOffers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bait, gpt := baitDisk(t, dir), filepath.Join(dir, "gpt")
	content := read(t, bait)
	disk := fdisk(t, 512, 2<<20+len(content), "n\n1\n2048\n"+lastSector(512, 1<<20, content)+"\nt\n"+rootType.String()+"\nx\nu\n"+partGUID.String()+"\nn\ncocoroot-root\nr\n")
	copy(disk[1<<20:], content)
	write(t, gpt, disk)
	g := standardImage(t).boots(t)
	g.extra = append(hostStrings("cocoroot.shell=1 init=/bin/sh "+planted),
		"-drive", "if=none,id=ext4,format=raw,readonly=on,file="+bait,
		"-device", "virtio-blk-pci,drive=ext4,serial=cocoroot",
		"-drive", "if=none,id=gpt,format=raw,file="+gpt,
		"-device", "virtio-blk-pci,drive=gpt,serial=root",
		"-drive", "if=none,id=swap,format=raw,file="+swapDisk(t, dir),
		"-device", "nvme,drive=swap,serial=swap",
		"-device", "virtio-scsi-pci", "-drive", "if=none,id=cd,media=cdrom,format=raw,readonly=on,file="+bait,
		"-device", "scsi-cd,drive=cd",
		"-device", "virtio-net-pci", "-device", "i6300esb",
	)
	g.undisturbed(t)
}

// hostStrings returns QEMU's arguments for a text in every string that systemd,
// or a reader of our parameters, might look for.
func hostStrings(text string) []string {
	var out []string
	text = strings.ReplaceAll(text, ",", ",,")
	for _, name := range []string{
		"opt/cocoroot/cmdline", "opt/cocoroot.key", "opt/org.cocoroot/init",
		"opt/io.systemd.credentials/tmpfiles.extra", "opt/org.systemd.credentials/login.motd",
		"opt/io.systemd.stub.kernel-cmdline-extra",
	} {
		out = append(out, "-fw_cfg", "name="+name+",string="+text)
	}
	for _, value := range []string{
		"io.systemd.credential:tmpfiles.extra=" + text,
		"io.systemd.credential:passwd.plaintext-password.root=" + text,
		"io.systemd.stub.kernel-cmdline-extra=" + text,
		"cocoroot.cmdline=" + text,
	} {
		out = append(out, "-smbios", "type=11,value="+value)
	}
	return append(out, "-smbios", "type=1,serial="+planted)
}

// baitDisk makes an ext4 file system with what a careless initrd or root
// would take from it: an init, a module, a policy, credentials.
func baitDisk(t *testing.T, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "bait")
	for _, name := range []string{
		"init", "sbin/init", "bin/sh", "etc/cocoroot/modules", "etc/fstab", "loader/credentials/evil.cred",
		"lib/modules/efi_secret.ko", "secrets/coco/736869e5-84f0-4973-92ec-06879ce3da0b", "late", "EFI/BOOT/BOOTX64.EFI",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte("#!/bin/sh\necho "+planted+" >/dev/console\n"))
	}
	out := filepath.Join(dir, "bait.ext4")
	write(t, out, make([]byte, 8<<20))
	oracle.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "cocoroot", "-d", root, out)
	return out
}

// rootType is the partition type that the Discoverable Partitions
// Specification gives to the root of an x86-64 machine.
var rootType = efi.MustParse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")

func swapDisk(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(dir, "swap")
	write(t, out, make([]byte, 1<<20))
	oracle.Run(t, "mkswap", "-L", "cocoroot", out)
	return out
}

// Another image of the same owner's, which the same key opens, in place of
// the measured one.
func TestOtherImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "image.key")
	write(t, key, standardImage(t).key)
	other := seal(t, dir, testRoot(t, dir, ""), "--key-file", key)
	write(t, other.path, append(read(t, other.path), make([]byte, 2<<20)...)) // no smaller than the measured one
	g := standardImage(t).boots(t)
	g.image = other.path
	g.fails(t, "VERITY")
}

// The disk answers with one thing and then with another.
func TestDiskChangesBetweenReads(t *testing.T) {
	t.Parallel()
	t.Run("second read", func(t *testing.T) {
		t.Parallel()
		g := standardImage(t).boots(t)
		seen := make(map[uint64]bool)
		again := 0
		d := serveDisk(t, g.image, func(offset uint64, data []byte) verdict {
			if !g.watch.has(initRuns) {
				return answered
			}
			for at := 0; at < len(data); at += verity.BlockSize {
				block := offset + uint64(at)
				if seen[block] {
					data[at+100] ^= 1
					again++
				}
				seen[block] = true
			}
			return answered
		})
		g.image, g.extra = "", d.arguments()
		g.fails(t, "VERITY")
		if again == 0 {
			t.Error("no block was read twice")
		}
	})
	t.Run("after the start", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		root := testRoot(t, dir, testScript+`
			echo 3 >/proc/sys/vm/drop_caches
			cat /late >/dev/null && echo "boot-test: read again"
		`)
		write(t, filepath.Join(root, "late"), lateData())
		g := seal(t, dir, root).boots(t)
		d := serveDisk(t, g.image, func(_ uint64, data []byte) verdict {
			if g.watch.has("boot-test: late file read") {
				for at := 0; at < len(data); at += verity.BlockSize {
					data[at+100] ^= 1
				}
			}
			return answered
		})
		g.image, g.extra = "", d.arguments()
		e := g.run(t, bootLimit)
		if !strings.Contains(e.Panic, "dm-verity device corrupted") || e.Reason != "guest-reset" {
			t.Errorf("outcome = %+v, %v; want dm-verity's panic and a reset", e.Outcome, e.err)
		}
		if !strings.Contains(e.console, "boot-test: late file read") || strings.Contains(e.console, "boot-test: read again") {
			t.Error("the file was not read as it is measured, and then not at all")
		}
	})
}

// typist types without end, until it is closed.
type typist struct {
	text []byte
	quit chan struct{}
}

func (k typist) Read(b []byte) (int, error) {
	select {
	case <-time.After(20 * time.Millisecond):
		return copy(b, k.text), nil
	case <-k.quit:
		return 0, os.ErrClosed
	}
}

// TestHostTypes boots while the host types, sends breaks with SysRq letters,
// interrupts, and presses every button that there is.
func TestHostTypes(t *testing.T) {
	t.Parallel()
	key := func(codes ...string) map[string]any {
		var keys []map[string]string
		for _, c := range codes {
			keys = append(keys, map[string]string{"type": "qcode", "data": c})
		}
		return map[string]any{"keys": keys}
	}
	presses := []struct {
		command string
		args    any
	}{
		{"chardev-send-break", map[string]any{"id": "console"}}, // what is typed next is a letter for SysRq
		{"inject-nmi", nil},
		{"system_powerdown", nil},
		{"send-key", key("ctrl", "alt", "delete")},
		{"send-key", key("alt", "sysrq", "b")},
	}
	g := standardImage(t).boots(t)
	quit, ended := make(chan struct{}), make(chan struct{})
	defer close(quit)
	// Escape, ctrl-C, ctrl-\, ctrl-Z, ctrl-D, commands, letters for SysRq.
	g.typed = typist{[]byte("\x1b\x03\x1c\x1a\x04\rsh\recho " + planted[:7] + "${x}" + planted[7:] + " >/dev/console\rbceijko"), quit}
	pressed := make([]int, len(presses))
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		up := g.watch.on("Unpacking initramfs") // the firmware takes ctrl-alt-del for a reset
		go func() {
			defer close(ended)
			select {
			case <-up:
			case <-ctx.Done():
				return
			}
			for {
				for i, p := range presses {
					if q.Execute(ctx, p.command, p.args, nil) == nil {
						pressed[i]++
					}
				}
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			}
		}()
		return nil
	}
	e := g.undisturbed(t)
	<-ended
	for i, p := range presses {
		if pressed[i] == 0 {
			t.Errorf("%s never worked", p.command)
		}
	}
	if !strings.Contains(e.console, "${x}") { // the terminal's echo
		t.Error("what was typed did not reach the guest's terminal")
	}
}
