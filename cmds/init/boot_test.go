package main_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/image/rootfs"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret/table"
	"cocoroot/unlock/verity"
)

func TestBoots(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	kept := entry(t, otherGUID, []byte("a secret for the workload"))
	g.entries = append(g.entries, kept)
	g.cmdline += " key=value -- first second"
	e := g.runs(t)
	for _, want := range []string{
		"boot-test: arguments first second",
		"boot-test: standard input /dev/null", // the console is the host's
		"boot-test: mounts / /dev /proc /run /run/cocoroot/secrets /sys /sys/kernel/security",
		"boot-test: entries " + otherGUID.String(),
		"boot-test: kept " + otherGUID.String(),
		`boot-test: secrets   "from": "injected"`,
		"boot-test: root is writable",
		"boot-test: late file read",
		"key=value",
	} {
		if !strings.Contains(e.console, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	// Seen from outside: the key's bytes and name are zero, the entry that
	// the workload keeps is complete.
	key := g.entries[0].Data.Bytes()
	if bytes.Contains(e.page, key) || bytes.Contains(e.page, policy.DefaultKey[:]) {
		t.Error("the disk key is still in the guest's memory")
	}
	if first := e.page[20 : 20+16]; !bytes.Equal(first, make([]byte, 16)) {
		t.Errorf("GUID of the first entry = %x; want the NULL GUID", first)
	}
	if data := e.page[40 : 40+len(key)]; !bytes.Equal(data, make([]byte, len(key))) {
		t.Errorf("data of the first entry = %x; want zeros", data)
	}
	if !bytes.Contains(e.page, kept.Data.Bytes()) {
		t.Error("the workload's entry is gone")
	}
}

// The line that seal writes keeps the kernel's messages off the console, which has
// init's and the workload's; who wants them appends loglevel=7.
func TestQuietBoot(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.cmdline = strings.Replace(g.cmdline, " loglevel=7", "", 1)
	e := g.runs(t)
	if strings.Contains(e.console, "Linux version") || strings.Count(e.console, "\n") > 60 {
		t.Errorf("the console of a default boot has %d lines; want those of the workload, and few more:\n%s", strings.Count(e.console, "\n"), e.console)
	}
}

func TestDiskBySerialAndNoOverlay(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.cmdline = strings.Replace(g.cmdline, "=/dev/vda", "=serial:sealed", 1) + " cocoroot.overlay=none cocoroot.stdin=console"
	e := g.runs(t)
	if !strings.Contains(e.console, "boot-test: standard input /dev/console") {
		t.Error("standard input is not the console, as the command line says")
	}
	if strings.Contains(e.console, "boot-test: root is writable") {
		t.Error("the root could be written to")
	}
}

// The image on the disk is not the measured one.
func TestImageTampered(t *testing.T) {
	t.Parallel()
	p := standardImage(t).policy.Image
	for name, offset := range some(t, map[string]int64{
		"LUKS header":             128,
		"LUKS header, JSON":       4096 + 100,
		"keyslot":                 32768 + 10,
		"ciphertext, first block": 1<<20 + 17,
		"top hash-tree block":     int64(p.HashStart()) * verity.BlockSize,
		"lowest hash-tree level":  lowestLevel(p),
	}, "keyslot", "lowest hash-tree level") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.image = changed(t, g.image, offset)
			g.fails(t, "VERITY")
		})
	}
}

// lowestLevel returns where the digest of data block 0 stands: the lowest
// level is the last one on the disk.
func lowestLevel(p verity.Params) int64 {
	const perBlock = verity.BlockSize / verity.DigestSize
	blocks := (p.DataBlocks + perBlock - 1) / perBlock
	return int64(p.DeviceSize() - blocks*verity.BlockSize)
}

func TestWrongRootHash(t *testing.T) {
	t.Parallel()
	s := standardImage(t)
	g := s.boots(t)
	g.cmdline = strings.Replace(g.cmdline, s.policy.Image.String(), wrongRoot(s.policy.Image).String(), 1)
	g.fails(t, "VERITY")
}

// The other file systems, and both ways to take one. (The kernel reads an ext4 that seal
// has made in TestNoPlaintextInBounceBuffers.)
func TestFileSystems(t *testing.T) {
	t.Parallel()
	t.Run("erofs", func(t *testing.T) {
		dir := t.TempDir()
		s := seal(t, dir, testRoot(t, dir, ""), "--fs", "erofs")
		if got := string(s.policy.FSType); got != "erofs" {
			t.Fatalf("rootfstype=%s; want erofs", got)
		}
		s.boots(t).runs(t)
	})
	t.Run("ext4, ready", func(t *testing.T) {
		dir := t.TempDir()
		image, err := rootfs.Make(t.Context(), testRoot(t, dir, ""), dir, rootfs.Options{Type: policy.Ext4})
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		seal(t, t.TempDir(), image.File.Name()).boots(t).runs(t)
	})
}

// Verity is lazy: a changed block that is read after the start stops the
// guest then, and its content reaches nobody.
func TestLateBlockTampered(t *testing.T) {
	t.Parallel()
	s := standardImage(t)
	g := s.boots(t)
	fs := filepath.Join(t.TempDir(), "fs")
	makeSquashfs(t, filepath.Join(filepath.Dir(s.path), "root"), fs)
	at := bytes.Index(read(t, fs), []byte(lateMarker))
	if at < 0 {
		t.Fatal("the late file does not stand as it is in the file system")
	}
	g.image = changed(t, g.image, 1<<20+int64(at)+4096)
	e := g.run(t, bootLimit)
	if !strings.Contains(e.console, "boot-test: late file next") {
		t.Error("the image's program did not come as far as the changed file")
	}
	if !strings.Contains(e.Panic, "dm-verity device corrupted") {
		t.Errorf("panic = %q; want dm-verity's", e.Panic)
	}
	if strings.Contains(e.console, "boot-test: late file read") || strings.Contains(e.console, lateMarker) {
		t.Error("the changed file was read")
	}
}

func TestSecretFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range some(t, map[string]struct {
		change func(*testing.T, *guest)
		want   string
	}{
		"wrong key": {func(t *testing.T, g *guest) {
			g.entries[0] = entry(t, policy.DefaultKey, bytes.Repeat([]byte("k"), 64))
		}, "LUKS-KEY"},
		"key without its last byte": {func(t *testing.T, g *guest) {
			key := g.entries[0].Data.Bytes()
			g.entries[0] = entry(t, policy.DefaultKey, key[:len(key)-1])
		}, "LUKS-KEY"},
		"key entry absent": {func(t *testing.T, g *guest) {
			g.entries[0] = entry(t, otherGUID, g.entries[0].Data.Bytes())
		}, "SECRET-ABSENT"},
		"key entry empty": {func(t *testing.T, g *guest) {
			g.entries = []table.Entry{entry(t, policy.DefaultKey, nil)}
		}, "SECRET-FORM"},
		"no entry for a credential": {func(_ *testing.T, g *guest) { g.cmdline += " " + credentialWord }, "CREDENTIAL"},
		"the entry of a credential empty": {func(t *testing.T, g *guest) {
			g.cmdline += " " + credentialWord
			g.entries = append(g.entries, entry(t, otherGUID, nil))
		}, "CREDENTIAL"},
		"nothing injected": {func(_ *testing.T, g *guest) { g.entries = nil }, "SECRET-NONE"},
		"table corrupt": {func(t *testing.T, g *guest) {
			table, err := table.Build(g.entries, 0xc00)
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			g.table = bytes.Clone(table.Bytes())
			binary.LittleEndian.PutUint32(g.table[16:], 0xc01) // longer than the area
		}, "SECRET-TABLE"},
		"entry twice": {func(_ *testing.T, g *guest) {
			g.table = tableOf([]table.Entry{g.entries[0], g.entries[0]}, 0, false)
		}, "SECRET-TABLE"},
	}, "key entry absent", "key entry empty", "no entry for a credential", "nothing injected", "table corrupt", "entry twice") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			tc.change(t, g)
			g.fails(t, tc.want)
		})
	}
}

func TestDiskFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range some(t, map[string]struct {
		change func(*testing.T, *guest)
		want   string
	}{
		"absent": {func(_ *testing.T, g *guest) {
			g.image = ""
			g.cmdline += " cocoroot.timeout=2s"
		}, "DISK-ABSENT"},
		"other name": {func(_ *testing.T, g *guest) {
			g.cmdline = strings.Replace(g.cmdline, "/dev/vda", "serial:other", 1) + " cocoroot.timeout=2s"
		}, "DISK-ABSENT"},
		"too small": {func(t *testing.T, g *guest) {
			whole := read(t, g.image)
			g.image = filepath.Join(t.TempDir(), "short")
			write(t, g.image, whole[:len(whole)-verity.BlockSize])
		}, "DISK-SIZE"},
		"no program": {func(_ *testing.T, g *guest) { g.cmdline += " init=/sbin/absent" }, "ROOT-INIT"},
		"other file system": {func(_ *testing.T, g *guest) {
			g.cmdline = strings.Replace(g.cmdline, "rootfstype=squashfs", "rootfstype=ext4", 1)
		}, "ROOT-MOUNT"},
	}, "other name", "too small", "other file system") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			tc.change(t, g)
			g.fails(t, tc.want)
		})
	}
}

func TestPolicyRefused(t *testing.T) {
	t.Parallel()
	for name, change := range some(t, map[string]func(string) string{
		"unknown parameter":  func(s string) string { return s + " cocoroot.shell=1" },
		"repeated parameter": func(s string) string { return s + " cocoroot.disk=/dev/vda" },
		"missing":            func(string) string { return "console=ttyS0 panic=-1" },
	}, "repeated parameter", "missing") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.cmdline = change(g.cmdline)
			g.fails(t, "POLICY")
		})
	}
}
