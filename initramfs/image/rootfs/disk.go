package rootfs

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/gpt"
)

// The types of partitions that may be the root, of which the first counts (UAPI
// group, Discoverable Partitions Specification), and those that are known by name.
const (
	rootType  = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	linuxType = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

func typeName(kind efi.GUID) string {
	names := map[string]string{
		rootType: "root (x86-64)", linuxType: "Linux filesystem",
		"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system", "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
		"bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot", "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
		"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
	}
	return cmp.Or(names[kind.String()], kind.String())
}

// disk is a disk image with a GUID partition table.
type disk struct {
	file   *os.File
	sector uint64 // bytes
	size   uint64 // sectors
	parts  []gpt.Partition
}

// readDisk returns nil for a file that is no such disk.
func readDisk(f *os.File) (*disk, error) {
	end, err := f.Seek(0, io.SeekEnd)
	for _, sector := range []int{512, 4096} {
		if parts, err := gpt.Read(f, uint64(end), sector); err == nil {
			return &disk{f, uint64(sector), uint64(end) / uint64(sector), parts}, nil
		}
	}
	return nil, err
}

// root returns the partition with a number; with 0, the only one whose type says
// that it is the root.
func (d *disk) root(number int) (gpt.Partition, error) {
	for _, kind := range []string{rootType, linuxType} {
		var found []gpt.Partition
		for _, p := range d.parts {
			if p.Number == number || number == 0 && p.Type.String() == kind {
				found = append(found, p)
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
		if len(found) > 1 {
			break
		}
	}
	const most = 32
	var text strings.Builder
	for i, p := range d.parts {
		if i == most {
			fmt.Fprintf(&text, "\n  and %d more", len(d.parts)-most)
			break
		}
		mib := float64(p.Last-p.First+1) * float64(d.sector) / (1 << 20)
		fmt.Fprintf(&text, "\n  %d: %q, %.1f MiB, %s", p.Number, p.Name, mib, typeName(p.Type))
	}
	why := "no partition, or more than one, has the type of a root"
	if number != 0 {
		why = fmt.Sprintf("there is no partition %d", number)
	}
	return gpt.Partition{}, fmt.Errorf("%w: %s:%s", ErrPartition, why, cmp.Or(text.String(), " the disk has none"))
}

// copyRoot copies the file system of the root's partition to a file in dir.
func (d *disk) copyRoot(ctx context.Context, dir string, number int) (*source, error) {
	p, err := d.root(number)
	if err != nil {
		return nil, err
	}
	if p.First > p.Last || p.Last >= d.size {
		return nil, fmt.Errorf("partition %d is not inside the disk: sectors %d to %d of %d", p.Number, p.First, p.Last, d.size)
	}
	begin, room := int64(p.First*d.sector), int64((p.Last-p.First+1)*d.sector)
	part := io.NewSectionReader(d.file, begin, room)
	kind, size, err := fsimage.Detect(part)
	if errors.Is(err, fsimage.ErrUnknown) {
		err = fmt.Errorf("%w: it is %s", err, cmp.Or(fsimage.Other(part), "of an unknown kind"))
	}
	if err == nil && size > room {
		err = fmt.Errorf("%w: it has %d bytes, and the partition %d", fsimage.ErrCorrupt, size, room)
	}
	if err != nil {
		return nil, fmt.Errorf("partition %d, at byte %d: %w", p.Number, begin, err)
	}
	before, err := d.file.Stat()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "partition")
	_, err = tool(ctx, d.file, nil, io.Discard, dd, "if="+thisFile, "of="+path, "bs=1M", "conv=sparse", "iflag=skip_bytes,count_bytes", "status=none",
		fmt.Sprintf("skip=%d", begin), fmt.Sprintf("count=%d", size))
	after, statErr := d.file.Stat()
	if err = cmp.Or(err, statErr); err == nil && stamp(before) != stamp(after) {
		err = ErrChanged
	}
	var out *os.File
	if err == nil {
		out, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot copy partition %d: %w", p.Number, err)
	}
	return &source{file: out, ready: kind, size: size, part: true}, nil
}

// rawOf returns a disk image as a file in dir, where it is a qcow2, and else f. Which
// other files a qcow2 has part in is decided here, by its header, so that qemu-img opens
// none of them.
func rawOf(ctx context.Context, f *os.File, dir string) (*os.File, error) {
	head := make([]byte, 80) // docs/interop/qcow2.rst of QEMU; big-endian
	if n, err := f.ReadAt(head, 0); n < 72 || !files.IsQcow2(head) {
		if err == io.EOF {
			err = nil
		}
		return f, err
	}
	be := binary.BigEndian
	fail := func(format string, args ...any) (*os.File, error) {
		return f, fmt.Errorf("it is a qcow2 %s", fmt.Sprintf(format, args...))
	}
	version := be.Uint32(head[4:])
	switch at, length := be.Uint64(head[8:]), be.Uint32(head[16:]); {
	case version != 2 && version != 3:
		return fail("of version %d; 2 and 3 are known", version)
	case at != 0:
		name := make([]byte, min(length, 1023))
		f.ReadAt(name, int64(at&(1<<62-1))) // for people only
		return fail("that is based on another file, %q (qemu-img convert -O raw makes one file of both)", name)
	case be.Uint32(head[32:]) != 0:
		return fail("that is encrypted (qemu-img convert -O raw makes a plain one)")
	case version == 3 && be.Uint64(head[72:])&4 != 0:
		return fail("whose data lie in another file (qemu-img convert -O raw makes one file of both)")
	}
	out, err := filepath.Abs(filepath.Join(dir, "disk")) // with a slash before any colon, it is a file
	if err != nil {
		return f, err
	}
	if _, err := tool(ctx, f, nil, io.Discard, qemuImg, "convert", "-f", "qcow2", "-O", "raw", thisFile, out); err != nil {
		return f, fmt.Errorf("cannot convert the qcow2: %w", err)
	}
	raw, err := os.Open(out)
	if err != nil {
		return f, err
	}
	f.Close()
	return raw, nil
}
