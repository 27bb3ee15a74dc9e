package main_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/verity"
)

// The disks people have: each bus and each way to name a disk, and what a
// host can make of the names.

// partGUID is the partition that holds the image.
var partGUID = efi.MustParse("abcdef01-2222-3333-4444-555555555555")

// spare is what a disk has after the image: a disk may be larger.
var spare = make([]byte, 1<<20+512)

// diskName replaces the disk's name in the command line.
func (g *guest) diskName(name string) {
	g.cmdline = strings.Replace(g.cmdline, "=/dev/vda", "="+name, 1)
}

// put makes a file the guest's disk.
func (g *guest) put(t *testing.T, data []byte) {
	t.Helper()
	g.image = filepath.Join(t.TempDir(), "disk")
	write(t, g.image, data)
}

// gptDisk returns a disk with logical sectors of that size in bytes, whose
// second partition, entry 5 of its table, has the content.
func gptDisk(t *testing.T, sector int, content []byte) []byte {
	t.Helper()
	disk := fdisk(t, sector, 3<<20+len(content), fmt.Sprintf("n\n1\n\n+7\nn\n5\n%d\n%s\nx\nu\n5\n%s\nn\n5\ncocoroot-root\nr\n",
		2<<20/sector, lastSector(sector, 2<<20, content), partGUID))
	copy(disk[2<<20:], content)
	return disk
}

// lastSector is that of a partition with this content.
func lastSector(sector, start int, content []byte) string {
	return strconv.Itoa((start + len(content) - 1) / sector)
}

// fdisk returns a disk of size bytes, rounded up to whole MiB, whose table fdisk
// made as the commands say.
func fdisk(t *testing.T, sector, size int, commands string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	write(t, path, make([]byte, (size+1<<20-1)>>20<<20))
	cmd := exec.Command(oracle.Tool(t, "fdisk"), "-b", strconv.Itoa(sector), path)
	cmd.Stdin = strings.NewReader("g\n" + commands + "w\n")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "has been altered") {
		t.Fatalf("fdisk: %v\n%s", err, out)
	}
	return read(t, path)
}

func TestDisks(t *testing.T) {
	t.Parallel()
	const long = "0123456789abcdef0123456789abcdef0123" // as long as QEMU's SCSI has them
	for name, tc := range some(t, map[string]struct {
		disk   string
		device []string
		change func(t *testing.T, g *guest, image []byte)
		node   string
	}{
		"virtio-scsi by path": {
			"/dev/sda", []string{"virtio-scsi-pci", "scsi-hd,drive=sealed"},
			nil, "/dev/sda",
		},
		"virtio-scsi by serial": {
			"serial:" + long, []string{"virtio-scsi-pci", "scsi-hd,drive=sealed,serial=" + long},
			nil, "/dev/sda",
		},
		// As libvirt attaches every device.
		"behind a root port": {
			"/dev/vda", []string{"pcie-root-port,id=slot1,bus=pcie.0,chassis=1,slot=1", "virtio-blk-pci,bus=slot1,drive=sealed"},
			nil, "/dev/vda",
		},
		"NVMe by serial and larger": {
			"serial:vol0123", []string{"nvme,drive=sealed,serial=vol0123"},
			func(t *testing.T, g *guest, image []byte) { g.put(t, append(image, spare...)) }, "/dev/nvme0n1",
		},
		"PARTLABEL and larger": {
			"PARTLABEL=cocoroot-root", nil,
			func(t *testing.T, g *guest, image []byte) { g.put(t, gptDisk(t, 512, append(image, spare...))) }, "/dev/vda5",
		},
		"PARTUUID in upper case and 4096-byte sectors": {
			"PARTUUID=" + strings.ToUpper(partGUID.String()),
			[]string{"virtio-blk-pci,drive=sealed,logical_block_size=4096,physical_block_size=4096"},
			func(t *testing.T, g *guest, image []byte) { g.put(t, gptDisk(t, 4096, image)) }, "/dev/vda5",
		},
		// Linux looks at the backup table when it is told to ("gpt").
		"PARTUUID on NVMe and primary table damaged": {
			"PARTUUID=" + partGUID.String(), []string{"nvme,drive=sealed,serial=x"},
			func(t *testing.T, g *guest, image []byte) {
				disk := gptDisk(t, 512, image)
				disk[512+60] ^= 1
				g.put(t, disk)
				g.cmdline += " gpt"
			}, "/dev/nvme0n1p5",
		},
	}, "virtio-scsi by serial", "behind a root port", "NVMe by serial and larger", "PARTLABEL and larger", "PARTUUID in upper case and 4096-byte sectors") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.diskName(tc.disk)
			g.device = tc.device
			if tc.change != nil {
				tc.change(t, g, read(t, g.image))
			}
			if e := g.runs(t); !strings.Contains(e.console, "cocoroot: disk "+tc.node+",") {
				t.Errorf("the disk was not taken from %s", tc.node)
			}
		})
	}
}

// A disk that gives a quarter of a megabyte a second is slow, not absent.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.throttle("throttling.bps-total=262144")
	g.diskName("serial:slow")
	g.runs(t)
}

// throttle slows the guest's disk down by QEMU's limits, and calls it slow.
func (g *guest) throttle(limits string) {
	g.extra = []string{
		"-drive", "if=none,id=slow,format=raw,readonly=on," + limits + ",file=" + g.image,
		"-device", "virtio-blk-pci,drive=slow,serial=slow",
	}
	g.image = ""
}

// A disk is plugged in when the guest says that it waits for one: a SCSI disk,
// at a controller that is there. The kernel takes no new PCI device.
func TestHotPlug(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	waits := g.watch.on("cocoroot: waiting for the disk serial:late")
	g.extra = []string{"-device", "virtio-scsi-pci,id=scsi"}
	g.diskName("serial:late")
	g.cmdline += " cocoroot.timeout=2m"
	image := g.image
	g.image = ""
	plugged := make(chan error, 1)
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		go func() {
			select {
			case <-waits:
				plugged <- plug(ctx, q, image)
			case <-ctx.Done():
				plugged <- ctx.Err()
			}
		}()
		return nil
	}
	e := g.run(t, bootLimit)
	select {
	case err := <-plugged:
		if err != nil {
			t.Errorf("cannot plug in the disk: %v", err)
		}
	default:
		t.Error("the guest did not say that it waits for the disk")
	}
	if !strings.Contains(e.console, ran) || e.err != nil {
		t.Errorf("outcome = %+v, %v; want the image's program", e.Outcome, e.err)
	}
}

func plug(ctx context.Context, q *qmp.Client, image string) error {
	err := q.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": "late", "read-only": true,
		"file": map[string]any{"driver": "file", "filename": image},
	}, nil)
	if err != nil {
		return fmt.Errorf("blockdev-add: %w", err)
	}
	return q.Execute(ctx, "device_add", map[string]any{
		"driver": "scsi-hd", "id": "late", "bus": "scsi.0", "drive": "late", "serial": "late",
	}, nil)
}

// second attaches another disk, before or after the guest's own.
func (g *guest) second(t *testing.T, data []byte, device string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "second")
	write(t, path, data)
	g.extra = append(g.extra, "-drive", "if=none,id=second,format=raw,readonly=on,file="+path, "-device", device+",drive=second")
}

// A name that two disks bear decides nothing: neither is opened.
func TestDiskAmbiguous(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, g *guest, image, other []byte){
		"serial": func(t *testing.T, g *guest, _, other []byte) {
			g.diskName("serial:sealed")
			g.second(t, other, "nvme,serial=sealed")
		},
		"PARTUUID": func(t *testing.T, g *guest, image, other []byte) {
			g.diskName("PARTUUID=" + partGUID.String())
			g.put(t, gptDisk(t, 512, image))
			g.second(t, gptDisk(t, 512, other), "virtio-blk-pci")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			image := read(t, g.image)
			other := bytes.Clone(image)
			other[1<<20+17] ^= 1
			change(t, g, image, other)
			if e := g.fails(t, "DISK-AMBIGUOUS"); strings.Contains(e.console, "cocoroot: disk /dev") {
				t.Error("one of the disks was taken")
			}
		})
	}
}

func TestPartitionTooSmall(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	image := read(t, g.image)
	g.put(t, gptDisk(t, 512, image[:len(image)-verity.BlockSize]))
	g.diskName("PARTUUID=" + partGUID.String())
	g.fails(t, "DISK-SIZE")
}

// A disk is there, and not the one that is waited for.
func TestPartitionAbsent(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.put(t, gptDisk(t, 512, read(t, g.image)))
	g.diskName("PARTUUID=deadbeef-2222-3333-4444-555555555555")
	g.cmdline += " cocoroot.timeout=4s"
	e := g.fails(t, "DISK-ABSENT")
	if !strings.Contains(e.console, "cocoroot: waiting for the disk PARTUUID=deadbeef-2222-3333-4444-555555555555, 4s at most") {
		t.Error("the guest did not say what it waits for")
	}
	if e.Fatal != nil && !strings.Contains(e.Fatal.Text, "among vda") {
		t.Errorf("the line %q does not say which disk is there", e.Fatal.Text)
	}
}
