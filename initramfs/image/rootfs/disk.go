package rootfs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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

// readDisk returns nil for a file that does not begin as such a disk.
func readDisk(f *os.File) (*disk, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	for _, sector := range []int64{512, 4096} {
		head := make([]byte, 8)
		if _, err := f.ReadAt(head, sector); err != nil || string(head) != "EFI PART" {
			continue
		}
		parts, err := gpt.Read(f, uint64(end), int(sector))
		return &disk{f, uint64(sector), uint64(end / sector), parts}, err
	}
	return nil, nil
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
	out, err := os.OpenFile(filepath.Join(dir, "partition"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot copy the partition: %w", err)
	}
	err = copySparse(ctx, out, part, size)
	after, statErr := d.file.Stat()
	if err = cmp.Or(err, statErr); err == nil && stamp(before) != stamp(after) {
		err = ErrChanged
	}
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("cannot copy partition %d: %w", p.Number, err)
	}
	return &source{file: out, ready: kind, size: size, part: true}, nil
}

// copySparse copies size bytes into an empty file, and leaves holes for zeros.
func copySparse(ctx context.Context, to *os.File, from io.ReaderAt, size int64) error {
	const chunk = 1 << 20
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	for at := int64(0); at < size; at += chunk {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(chunk, size-at)]
		if n, err := from.ReadAt(b, at); n < len(b) {
			return err
		}
		if bytes.Equal(b, zeros[:len(b)]) {
			continue
		}
		if _, err := to.WriteAt(b, at); err != nil {
			return err
		}
	}
	return to.Truncate(size)
}

// otherThing says what a file is that cannot be used, or is "".
func otherThing(f *os.File) string {
	if name := fsimage.Other(f); name != "" {
		return name
	}
	b := make([]byte, 512) // the master boot record: four entries from 446 on, then 55 AA
	if _, err := f.ReadAt(b, 0); err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return ""
	}
	var kinds []byte
	for _, at := range []int{446, 462, 478, 494} {
		if b[at]&^0x80 != 0 { // the one bit that says that it starts there
			return ""
		}
		kinds = append(kinds, b[at+4])
	}
	switch {
	case slices.Contains(kinds, 0xee):
		return "a disk whose GUID partition table is damaged"
	case slices.Max(kinds) > 0:
		return "a disk with an MBR, and only a GUID partition table is read (of a copy, sgdisk --mbrtogpt makes one)"
	}
	return ""
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
