package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret/table"
)

// peersUUID is the LUKS UUID that the peers' archives look for (build.sh bench
// makes them).
const peersUUID = "11111111-1111-4111-8111-111111111111"

// benchScript is the init of every image: it shows when the kernel started
// the archive's init and when it itself began.
const benchScript = `#!/bin/sh
PATH=/bin
echo "bench: image runs" >/dev/kmsg
dmesg | grep -F -e 'Run /init as' -e 'bench: image runs'
cat /run/cocoroot/status.json 2>/dev/null
sync
poweroff -f
`

// BenchmarkBoot counts the guest's instructions from the start of the
// archive's init to the start of the image's: ours beside Debian's
// initramfs-tools with cryptsetup and beside dracut. Where ours asks its owner, the
// archive is not compressed, for it has the false provider of reports in it.
//
// Every archive opens a LUKS2 disk with a random key and pbkdf2 × 1000. The
// peers come as Debian 12 makes them, with its kernel, a key file in the
// archive, and without dm-verity. QEMU counts a nanosecond an instruction
// (-icount shift=0), so that the kernel's clock counts instructions, and
// skips idle time ahead of the clock (sleep=off), so that what waits pays.
func BenchmarkBoot(b *testing.B) {
	b.Run("cocoroot", func(b *testing.B) {
		dir := b.TempDir()
		root := benchRoot(b, dir)
		image := seal(b, dir, root, "--append", "quiet printk.time=1")
		table, err := table.Build([]table.Entry{entry(b, policy.DefaultKey, image.key)}, int(secretArea(b, oracle.Artifact(b, "OVMF.amdsev.fd")).Size))
		if err != nil {
			b.Fatal(err)
		}
		defer table.Close()
		bootFor(b, launch.Config{
			Kernel: oracle.Artifact(b, "bzImage"), Initrd: oracle.Artifact(b, "initrd.img"),
			Cmdline: image.cmdline, Disks: []launch.Disk{{Path: image.path}}, SecretTable: table.Bytes(),
		})
	})
	b.Run("cocoroot, asking its owner", func(b *testing.B) {
		dir := b.TempDir()
		image := seal(b, dir, benchRoot(b, dir), "--append", "quiet printk.time=1")
		g := image.boots(b).asks(b, nil, newAnswering(b, entry(b, policy.DefaultKey, image.key)), "serial:ttyS2")
		bootFor(b, launch.Config{
			Kernel: g.kernel, Initrd: g.initrd, Cmdline: g.cmdline, Disks: []launch.Disk{{Path: image.path}}, ExtraArgs: g.extra,
		})
	})
	for _, peer := range []struct{ name, words string }{
		{"initramfs-tools", ""},
		{"dracut", " rd.luks.name=" + peersUUID + "=root rd.luks.key=/etc/bench.key"},
	} {
		b.Run(peer.name, func(b *testing.B) {
			dir := b.TempDir()
			bootFor(b, launch.Config{
				Kernel: oracle.Fixture(b, "peers/vmlinuz"), Initrd: oracle.Fixture(b, "peers/"+peer.name+".img"),
				Cmdline: "console=ttyS0 quiet panic=-1 root=/dev/mapper/root rootfstype=ext4 ro" + peer.words,
				Disks:   []launch.Disk{{Path: peersDisk(b, dir), Writable: true}},
			})
		})
	}
}

// benchRoot makes the root that every archive starts.
func benchRoot(b *testing.B, dir string) string {
	root := testRoot(b, dir, "")
	write(b, filepath.Join(root, "sbin/init"), []byte(benchScript))
	write(b, filepath.Join(root, "etc/os-release"), []byte("ID=bench\n")) // systemd, in dracut's archive, wants one
	return root
}

// peersDisk encrypts the root with the stock tools.
func peersDisk(b *testing.B, dir string) string {
	root, disk := benchRoot(b, dir), filepath.Join(dir, "disk")
	oracle.Run(b, oracle.Tool(b, "mke2fs"), "-q", "-t", "ext4", "-d", root, disk, "64M")
	if err := os.Truncate(disk, 96<<20); err != nil { // room for the header
		b.Fatal(err)
	}
	cryptsetup, key := oracle.Tool(b, "cryptsetup"), oracle.Fixture(b, "peers/key")
	oracle.Run(b, cryptsetup, "reencrypt", "-q", "--encrypt", "--reduce-device-size", "32M", "--type", "luks2",
		"--cipher", "aes-xts-plain64", "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", key, disk)
	oracle.Run(b, cryptsetup, "luksUUID", "-q", "--uuid", peersUUID, disk)
	return disk
}

var (
	archiveStarts = regexp.MustCompile(`\[ *(\d+)\.(\d{6})\] Run /init as`)
	imageStarts   = regexp.MustCompile(`\[ *(\d+)\.(\d{6})\] bench: image runs`)
)

// bootFor boots once an iteration and reports what it took.
func bootFor(b *testing.B, c launch.Config) {
	c.Firmware = oracle.Artifact(b, "OVMF.amdsev.fd")
	c.ExtraArgs = append(c.ExtraArgs, "-icount", "shift=0,sleep=off")
	archive, err := os.Stat(c.Initrd)
	if err != nil {
		b.Fatal(err)
	}
	var console bytes.Buffer
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), 4*bootLimit)
		console.Reset()
		_, err := launch.Run(ctx, c, &console)
		cancel()
		from, to := kernelTime(console.String(), archiveStarts), kernelTime(console.String(), imageStarts)
		if err != nil || from == 0 || to == 0 {
			b.Fatalf("the guest did not get as far as its image: %v\n%s", err, console.String())
		}
		b.ReportMetric(float64(to-from)/1000, "Minstr/boot") // a microsecond is 1,000 instructions
		reportStatus(b, console.String())
	}
	b.ReportMetric(float64(archive.Size()), "archive-B")
	b.ReportMetric(0, "ns/op") // wall-clock time says nothing here
}

// kernelTime returns the kernel's time of a line in microseconds.
func kernelTime(console string, line *regexp.Regexp) int64 {
	m := line.FindStringSubmatch(console)
	if m == nil {
		return 0
	}
	t, err := strconv.ParseInt(m[1]+m[2], 10, 64)
	if err != nil {
		return 0
	}
	return t
}

// reportStatus reports init's own steps, where there is a status.
func reportStatus(b *testing.B, console string) {
	_, text, ok := strings.Cut(console, "\n{")
	if !ok {
		return
	}
	type usage struct {
		CPU  float64 `json:"cpu_ms"`
		Peak float64 `json:"peak_memory_kib"`
	}
	var s struct {
		Steps []struct {
			Name string
			MS   float64
		}
		Usage struct{ Init, Unseal usage }
	}
	if err := json.NewDecoder(strings.NewReader("{" + text)).Decode(&s); err != nil {
		b.Fatal(err)
	}
	for _, step := range s.Steps {
		b.ReportMetric(step.MS, "Minstr/"+step.Name)
	}
	b.ReportMetric(s.Usage.Init.CPU+s.Usage.Unseal.CPU, "Minstr/work")
	b.ReportMetric(s.Usage.Init.Peak, "init-KiB")
	b.ReportMetric(s.Usage.Unseal.Peak, "unseal-KiB")
}
