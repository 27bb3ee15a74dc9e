package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// target is one line of a table as the kernel reports it.
type target struct {
	start, length uint64 // 512-byte sectors
	kind          string
	text          string // state, or parameters with DM_STATUS_TABLE_FLAG
}

// controlSize is the size of a request and of its answer in bytes; a verity
// table has under 1 KiB.
const controlSize = 16 << 10

var errStatus = errors.New("the kernel's answer is malformed")

// status asks for the state or the table of an active device of one target
// (DM_TABLE_STATUS, include/uapi/linux/dm-ioctl.h). It must not be asked for
// the table of a crypt target, which has the key in it.
func status(name string, flags uint32) (target, error) {
	answer, targets, err := control(unix.DM_TABLE_STATUS, name, flags, nil)
	if err == nil && targets != 1 {
		err = fmt.Errorf("%w: it has %d targets", errTable, targets)
	}
	var t target
	if err == nil {
		t, err = parseTarget(answer)
	}
	if err != nil {
		return target{}, fmt.Errorf("cannot read the state of %s: %w", name, err)
	}
	return t, nil
}

// control sends one request about a device, with data after its head, to the
// device-mapper (include/uapi/linux/dm-ioctl.h). It returns what the kernel writes
// back, and of how many targets that is.
func control(request uintptr, name string, flags uint32, data []byte) (answer []byte, targets uint32, err error) {
	// A slice of words: the structures in it are aligned to 8 bytes.
	words := make([]uint64, controlSize/8)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), controlSize)
	head := (*unix.DmIoctl)(unsafe.Pointer(&words[0]))
	head.Version = [3]uint32{4, 0, 0}
	head.Data_size = controlSize
	head.Data_start = unix.SizeofDmIoctl
	head.Flags = flags
	if len(name) >= len(head.Name) {
		return nil, 0, errors.New("the name is too long")
	}
	copy(head.Name[:], name)
	copy(buf[head.Data_start:], data)

	fd, err := unix.Open("/dev/mapper/control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open the device-mapper: %w", err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(head))); errno != 0 {
		return nil, 0, errno
	}
	if head.Flags&unix.DM_BUFFER_FULL_FLAG != 0 || head.Data_start > controlSize {
		return nil, 0, errStatus
	}
	return buf[head.Data_start:], head.Target_count, nil
}

// parseTarget reads struct dm_target_spec: u64 start, u64 length, s32 status, u32
// offset of the next one, 16 bytes of type; then the text up to a NUL.
func parseTarget(b []byte) (target, error) {
	if len(b) < unix.SizeofDmTargetSpec {
		return target{}, errStatus
	}
	text, _, ended := bytes.Cut(b[unix.SizeofDmTargetSpec:], []byte{0})
	if !ended {
		return target{}, errStatus
	}
	kind, _, _ := bytes.Cut(b[24:40], []byte{0})
	return target{
		start:  binary.NativeEndian.Uint64(b),
		length: binary.NativeEndian.Uint64(b[8:]),
		kind:   string(kind),
		text:   string(text),
	}, nil
}
