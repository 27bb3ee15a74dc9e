package main_test

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret/table"
)

// BenchmarkVolumes measures the disks that a guest writes: their creation, what
// is written for 4 KiB with an fsync, and throughput beside plain dm-crypt, all
// in one guest. Without KVM the times are those of an emulated processor: only
// the ratios say something.
func BenchmarkVolumes(b *testing.B) {
	dir := b.TempDir()
	root := testRoot(b, dir, "mount -t tmpfs tmpfs /mnt; diskbench")
	if err := os.MkdirAll(root+"/mnt", 0o755); err != nil {
		b.Fatal(err)
	}
	buildProgram(b, root, "diskbench")
	image := seal(b, dir, root)
	for b.Loop() {
		console := benchDisks(b, image, []string{"1G", "1G", "1G"})
		for _, m := range regexp.MustCompile(`diskbench: (\S+) (\S+) (\d+)\r?\n`).FindAllStringSubmatch(console, -1) {
			n, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(n, m[1]+"-"+m[2])
		}
		b.ReportMetric(0, "ns/op")
	}
}

// BenchmarkScratch measures how long a boot takes to have its scratch disk, by
// the disk's size.
func BenchmarkScratch(b *testing.B) {
	dir := b.TempDir()
	image := seal(b, dir, benchRoot(b, dir), "--append", "quiet printk.time=1 cocoroot.overlay=ephemeral:/dev/vdb")
	for _, size := range []string{"1G", "100G"} {
		b.Run(size, func(b *testing.B) {
			for b.Loop() {
				console := benchDisks(b, image, []string{size})
				reportStatus(b, console)
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// benchDisks boots an image with empty disks of these sizes.
func benchDisks(b *testing.B, image sealedImage, sizes []string) string {
	b.Helper()
	table, err := table.Build([]table.Entry{entry(b, policy.DefaultKey, image.key)}, int(secretArea(b, oracle.Artifact(b, "OVMF.amdsev.fd")).Size))
	if err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	c := launch.Config{
		Firmware: oracle.Artifact(b, "OVMF.amdsev.fd"), Kernel: oracle.Artifact(b, "bzImage"), Initrd: oracle.Artifact(b, "initrd.img"),
		Cmdline: image.cmdline, Disks: []launch.Disk{{Path: image.path}}, SecretTable: table.Bytes(),
	}
	for _, s := range sizes {
		n, err := strconv.ParseInt(strings.TrimSuffix(s, "G"), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		c.Disks = append(c.Disks, launch.Disk{Path: emptyDisk(b, n<<30), Writable: true})
	}
	var console bytes.Buffer
	ctx, cancel := context.WithTimeout(b.Context(), 4*bootLimit)
	defer cancel()
	if _, err := launch.Run(ctx, c, &console); err != nil {
		b.Fatalf("%v\n%s", err, console.String())
	}
	return console.String()
}
