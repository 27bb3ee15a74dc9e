package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
)

// cloudTable and cloudFstab are what Debian's image genericcloud has: the root, for
// x86-64, after a partition to start from by BIOS and one by EFI.
const (
	cloudTable = `label: gpt
disk1 : start=262144, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=5EC0AE2C-0001-4000-8000-000000000001
disk14 : start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649
disk15 : start=8192, size=253952, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
`
	cloudFstab = `# /etc/fstab: static file system information
PARTUUID=5ec0ae2c-0001-4000-8000-000000000001 / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
UUID=9A64-5E5B /boot/efi vfat defaults 0 0
`
)

// cloudImage makes a qcow2 in that layout of a Debian 12, with a cloud-init that has
// no more than a unit's name.
func cloudImage(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		oracle.Forbidden(t, "root's files cannot be unpacked")
	}
	sfdisk, mke2fs, qemuImg := oracle.Tool(t, "sfdisk"), oracle.Tool(t, "mke2fs"), oracle.Tool(t, "qemu-img")
	dir := t.TempDir()
	archive, root, disk := filepath.Join(dir, "root.tar"), filepath.Join(dir, "root"), filepath.Join(dir, "disk")
	addToTar(t, oracle.Fixture(t, "debian12.tar"), archive)
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "tar", "-C", root, "--exclude=./dev/*", "-xf", archive)
	write(t, filepath.Join(root, "etc/fstab"), []byte(cloudFstab))
	write(t, filepath.Join(root, "lib/systemd/system/cloud-init.service"), []byte("[Service]\nExecStart=/bin/false\n"))
	write(t, disk, nil)
	if err := os.Truncate(disk, 800*mib); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sfdisk, "-q", disk)
	cmd.Stdin = strings.NewReader(cloudTable)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	oracle.Run(t, mke2fs, "-q", "-F", "-t", "ext4", "-E", "offset=134217728", "-d", root, disk, "512M")
	out := filepath.Join(dir, "debian.qcow2")
	oracle.Run(t, qemuImg, "convert", "-f", "raw", "-O", "qcow2", disk, out)
	return out
}

// TestCloudImage seals a cloud image as its provider offers it. Its fstab, which names
// partitions that the guest does not have, and cloud-init are refused, and the hint's
// words make it boot.
func TestCloudImage(t *testing.T) {
	t.Parallel()
	disk, dir := cloudImage(t), t.TempDir()
	const words = "fstab=no cloud-init=disabled"
	out, err := exec.Command(oracle.Artifact(t, "cocoroot"), "seal", disk, "-o", filepath.Join(dir, "refused")).CombinedOutput()
	if err == nil {
		t.Error("the image was sealed as it is")
	}
	for _, want := range []string{
		`host-disk: /etc/fstab: "PARTUUID=5ec0ae2c-`, `host-disk: /etc/fstab: "UUID=9A64-5E5B /boot/efi`, "cloud-init: /usr/lib/systemd/system/cloud-init.service",
		"hint: change the root, have systemd leave that alone with --append '" + words + "', or",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("seal lacks %q:\n%s", want, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left beside the image: %v, %v", left, err)
	}

	g := seal(t, dir, disk, "--append", "loglevel=7 no_timer_check "+words).boots(t)
	g.memory = 2048
	e := g.run(t, 2*bootLimit)
	if e.err != nil || e.Fatal != nil || e.Panic != "" || e.Reason != "guest-shutdown" {
		t.Fatalf("outcome = %+v, %v; want a power-off of the guest's own", e.Outcome, e.err)
	}
	g.wiped(t, e)
	for _, want := range []string{"state running", "target active", "root udev cocoroot-root ext4 1", "root is overlay", "findmnt / overlay overlay"} {
		if !strings.Contains(strings.ReplaceAll(e.console, " \r\n", "\r\n"), "boot-test: "+want+"\r\n") {
			t.Errorf("the console lacks the line %q", want)
		}
	}
	if strings.Contains(e.console, "boot-test: failed") || strings.Contains(e.console, "imed out") {
		t.Error("units failed")
	}
}
