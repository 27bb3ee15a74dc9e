package rootfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

const (
	mib = 1 << 20
	// cloudTable is the layout of Debian's generic cloud image, as sfdisk takes it.
	cloudTable = "label: gpt\n" +
		"d1 : start=262144, type=" + rootType + "\n" +
		"d14 : start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649\n" +
		"d15 : start=8192, size=253952, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
	cloudRoot = 262144 * 512 // where its root begins, bytes
)

// anExt4 returns a small ext4 with a journal, as cloud images have one.
func anExt4(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "root"), 0o755), os.WriteFile(filepath.Join(dir, "root/file"), []byte("in the root"), 0o644)); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, oracle.Tool(t, mke2fs), "-q", "-F", "-t", "ext4", "-d", filepath.Join(dir, "root"), filepath.Join(dir, "fs"), "8M")
	data, err := os.ReadFile(filepath.Join(dir, "fs"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// aDisk makes a disk image of 160 MiB with a table that sfdisk makes, and content at
// a byte.
func aDisk(t *testing.T, table string, at int64, content []byte) string {
	t.Helper()
	path := write(t, "disk.raw", nil)
	if err := os.Truncate(path, 160*mib); err != nil {
		t.Fatal(err)
	}
	if table != "" {
		cmd := exec.Command(oracle.Tool(t, "sfdisk"), "-q", path)
		cmd.Stdin = strings.NewReader(table)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sfdisk: %v\n%s", err, out)
		}
	}
	change(t, path, at, content)
	return path
}

func change(t *testing.T, path string, at int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(content, at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDisk(t *testing.T) {
	qemuImg := oracle.Tool(t, qemuImg)
	ext4 := anExt4(t)
	raw := aDisk(t, cloudTable, cloudRoot, ext4)
	qcow2 := filepath.Join(t.TempDir(), "a:b,disk")
	oracle.Run(t, qemuImg, "convert", "-f", "raw", "-O", "qcow2", "-c", raw, "file:"+qcow2)
	bare := filepath.Join(t.TempDir(), "bare")
	oracle.Run(t, qemuImg, "convert", "-f", "raw", "-O", "qcow2", write(t, "fs", ext4), bare)
	packed, err := os.ReadFile(qcow2)
	if err != nil {
		t.Fatal(err)
	}
	// Of a Linux file system beside a swap partition, in sectors of 4096 bytes.
	large := aDisk(t, "", mib, ext4)
	fdisk := exec.Command(oracle.Tool(t, "fdisk"), "-b", "4096", large)
	fdisk.Stdin = strings.NewReader("g\nn\n1\n\n+9M\nn\n2\n\n\nt\n2\n19\nw\n")
	if out, err := fdisk.CombinedOutput(); err != nil {
		t.Fatalf("fdisk: %v\n%s", err, out)
	}
	twoRoots := aDisk(t, "label: gpt\nsize=8MiB, type="+rootType+"\nsize=9MiB, type="+rootType+"\n", 9*mib, ext4)
	beside := aDisk(t, "label: gpt\nsize=8MiB, type="+linuxType+"\nsize=9MiB, type="+rootType+"\n", 9*mib, ext4)
	for _, tc := range []struct {
		name, source string
		o            Options
	}{
		{"raw", raw, Options{}},
		{"of its type already", raw, Options{Type: policy.Ext4, Partition: 1}},
		{"qcow2", qcow2, Options{}},
		{"qcow2 from a pipe", Stdin, Options{Stdin: bytes.NewReader(packed)}},
		{"qcow2 without partitions", bare, Options{}},
		{"file system from a pipe", Stdin, Options{Stdin: bytes.NewReader(ext4)}},
		{"large sectors", large, Options{}},
		{"the root beside a Linux file system", beside, Options{}},
		{"the second root", twoRoots, Options{Partition: 2}},
	} {
		looked := false
		tc.o.Look = func(root *fsimage.Node, kind policy.FSType) error {
			looked = true
			wantAll(t, treeContents(t, root), map[string]string{"file": "in the root"})
			return nil
		}
		image := build(t, tc.source, tc.o)
		got := make([]byte, image.Size)
		if _, err := image.File.ReadAt(got, 0); err != nil || image.Type != policy.Ext4 || !bytes.Equal(got, ext4) || !looked {
			t.Errorf("%s: %s of %d bytes, %v, looked at %t; want the partition's ext4", tc.name, image.Type, image.Size, err, looked)
		}
		if err := errors.Join(os.Remove(image.File.Name()), image.Check()); err != nil {
			t.Errorf("%s: %v; the copy is in the caller's folder, and unchanged without its name", tc.name, err)
		}
	}
}

// What a partition holds that no guest mounts has its name in the message.
func TestDiskRefuses(t *testing.T) {
	ext4 := anExt4(t)
	one := "label: gpt\nsize=9MiB, type=" + linuxType + ", name=\"a\\x1bname\"\n"
	with := func(at int64, magic string) string { return aDisk(t, one, mib+at, []byte(magic)) }
	const lastTable = 160*mib - 33*512
	damaged := aDisk(t, cloudTable, 1024, []byte("x"))
	change(t, damaged, lastTable, []byte("x"))
	first := aDisk(t, cloudTable, cloudRoot, ext4)
	change(t, first, 1024, []byte("x"))
	build(t, first, Options{}) // by the second table
	outside := aDisk(t, one, mib, ext4)
	for name, tc := range map[string]struct {
		source string
		o      Options
		is     error
		want   string
	}{
		"two roots":     {aDisk(t, "label: gpt\nsize=8MiB, type="+rootType+"\nsize=9MiB, type="+rootType+"\n", 0, nil), Options{}, ErrPartition, "\n  2: \"\", 9.0 MiB, root (x86-64)"},
		"one too many":  {aDisk(t, "label: gpt\nsize=8MiB, type="+rootType+"\nsize=9MiB, type="+rootType+"\nsize=9MiB, type="+linuxType+"\n", 17*mib, ext4), Options{}, ErrPartition, "\n  3: "},
		"two of Linux":  {aDisk(t, "label: gpt\nsize=8MiB, type="+linuxType+", name=one\nsize=9MiB\n", 0, nil), Options{}, ErrPartition, "\n  1: \"one\", 8.0 MiB, Linux filesystem"},
		"none":          {aDisk(t, "label: gpt\nsize=8MiB, type=uefi, name=\"a\\x1bname\"\nsize=9MiB, type=44479540-f297-41b2-9af7-d131d5f0458a\n", 0, nil), Options{}, ErrPartition, "9.0 MiB, 44479540-f297-41b2-9af7-d131d5f0458a"},
		"no partitions": {aDisk(t, "label: gpt\n", 0, nil), Options{}, ErrPartition, "the disk has none"},
		"no number 7":   {aDisk(t, one, 0, nil), Options{Partition: 7}, ErrPartition, "there is no partition 7"},
		"no disk":       {write(t, "fs", ext4), Options{Partition: 1}, ErrPartition, "not a disk image with partitions"},
		"a folder":      {t.TempDir(), Options{Partition: 1}, ErrPartition, "not a disk image with partitions"},
		"another type":  {aDisk(t, one, mib, ext4), Options{Type: policy.Squashfs}, ErrFormat, "it is ext4 already"},
		"MBR":           {aDisk(t, "label: dos\nsize=9MiB\n", mib, ext4), Options{}, fsimage.ErrUnknown, "a disk with an MBR and no"},
		"damaged":       {damaged, Options{}, fsimage.ErrUnknown, "no intact GUID partition table"},
		"LUKS":          {with(0, "LUKS\xba\xbe"), Options{}, fsimage.ErrUnknown, "partition 1, at byte 1048576: no file system that the guest mounts (squashfs, erofs or ext4): it is encrypted (LUKS)"},
		"LVM":           {with(512, "LABELONE"), Options{}, fsimage.ErrUnknown, "it is a volume of LVM"},
		"XFS":           {with(0, "XFSB"), Options{}, fsimage.ErrUnknown, "it is an XFS"},
		"btrfs":         {with(64<<10+64, "_BHRfS_M"), Options{}, fsimage.ErrUnknown, "it is a btrfs"},
		"FAT":           {with(54, "FAT16   "), Options{}, fsimage.ErrUnknown, "it is a FAT"},
		"nothing":       {with(0, ""), Options{}, fsimage.ErrUnknown, "it is of an unknown kind"},
		"XFS alone":     {write(t, "xfs", append([]byte("XFSB"), make([]byte, 4096)...)), Options{}, fsimage.ErrUnknown, "it is an XFS"},
		"cut off":       {aDisk(t, one, 9*mib, nil), Options{}, fsimage.ErrUnknown, "it is"},
		"larger inside": {aDisk(t, strings.Replace(one, "9MiB", "7MiB", 1), mib, ext4), Options{}, fsimage.ErrCorrupt, "it has 8388608 bytes, and the partition 7340032"},
		"journal":       {aDisk(t, one, mib, replays(ext4)), Options{}, fsimage.ErrRecovery, "partition 1, at byte 1048576"},
		"outside":       {outside, Options{}, nil, "partition 1 is not inside the disk"},
	} {
		if name == "outside" {
			if err := os.Truncate(outside, 5*mib); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Make(t.Context(), tc.source, t.TempDir(), tc.o)
		if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v; want %v and %q", name, err, tc.is, tc.want)
		}
	}
}

// replays returns an ext4 that was not unmounted.
func replays(ext4 []byte) []byte {
	out := bytes.Clone(ext4)
	out[1024+0x60] |= 4 // EXT4_FEATURE_INCOMPAT_RECOVER
	return out
}

// A qcow2 that is not all there is refused before qemu-img sees it.
func TestQcow2Refuses(t *testing.T) {
	program, dir := oracle.Tool(t, qemuImg), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	create := func(args ...string) string {
		out := path(fmt.Sprint(len(args), args[0]))
		oracle.Run(t, program, append(append([]string{"create", "-q", "-f", "qcow2"}, args...), out, "16M")...)
		return out
	}
	plain := create("-o", "preallocation=off")
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(data[4:], 4)
	for name, tc := range map[string]struct{ source, want string }{
		"backing file": {create("-F", "qcow2", "-b", plain), "based on another file, \"" + plain},
		"data file":    {create("-o", "data_file="+path("data"), "-q"), "whose data lie in another file"},
		"encrypted":    {create("-o", "encrypt.format=aes,encrypt.key-secret=s", "--object", "secret,id=s,data=x", "-q"), "that is encrypted"},
		"version":      {write(t, "version", data), "of version 4"},
		"damaged":      {write(t, "damaged", append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 9000)...)), "cannot convert the qcow2: qemu-img"},
		"short":        {write(t, "short", []byte("QFI\xfb\x00\x00\x00\x03")), errInput.Error()},
	} {
		if _, err := Make(t.Context(), tc.source, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", name, err, tc.want)
		}
	}
	t.Setenv("PATH", dir)
	if _, err := Make(t.Context(), plain, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "qemu-img (Debian: qemu-utils)") {
		t.Errorf("without qemu-img: %v; want the package's name", err)
	}
	// Another one, which is at work when it is told to end.
	started := path("started")
	script := "#!/bin/sh\n: >'" + started + "'\nexec /bin/sleep 60\n"
	if err := os.WriteFile(path("qemu-img"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(started); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	begin := time.Now()
	if _, err := Make(ctx, plain, t.TempDir(), Options{}); !errors.Is(err, context.Canceled) || time.Since(begin) > 30*time.Second {
		t.Errorf("canceled: %v after %v; want Canceled at once", err, time.Since(begin))
	}
}
