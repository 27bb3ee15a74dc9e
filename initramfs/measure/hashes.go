// Package measure computes what a confidential launch measures, so that the
// owner of a guest knows the digest to expect before there is one.
//
// Measured direct boot works in two steps: the launch measures the firmware
// and a small table of hashes in the guest's memory; the firmware then refuses
// a kernel, initrd or command line that does not have its hash in the table.
// SEV-ES and SEV-SNP also measure the registers with which each virtual CPU
// starts.
//
// An Input is made of what NewFirmware, HashFiles and NewCPUs return;
// Input.Digest then computes the digest, and the digest after each step.
//
// A digest says what was started. It does not say that the host runs it on
// SEV hardware: that is what the signed report, or the measurement keyed by
// the platform, is for.
package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/efi"
)

const (
	// TableSize is the size in bytes of the hashes table as it lies in the
	// guest's memory: head and entries, zero-padded to a multiple of 16.
	TableSize = 176
	// TableLength is its size without the padding, as its head counts it.
	TableLength = tableHead + 3*tableEntry

	// MaxFile bounds a kernel and an initrd, in bytes. QEMU puts them below 4 GiB of
	// the guest's memory.
	MaxFile = 2 << 30

	tableHead  = 16 + 2         // GUID, u16 little-endian length
	tableEntry = tableHead + 32 // the same, then a SHA-256 digest
)

// The GUIDs of the table and of its entries (QEMU target/i386/sev.c, edk2
// OvmfPkg/AmdSev/BlobVerifierLibSevHashes).
var (
	tableGUID = efi.MustParse("9438d606-4f22-4cc9-b479-a793d411fd21")
	entries   = [...]efi.GUID{
		efi.MustParse("97d02dd8-bd20-4c94-aa78-e7714d36ab2a"), // command line
		efi.MustParse("44baf731-3a2f-4bd7-9af1-41e29169781d"), // initrd
		efi.MustParse("4de79437-abd2-427f-b835-d5b172d2045b"), // kernel
	}
)

var (
	// errCmdline is returned for a command line that cannot be measured as
	// one: it holds a NUL or a line break.
	errCmdline = errors.New("not a kernel command line")
	// errTable is returned for bytes that are not a complete hashes table.
	errTable = errors.New("not a table of the kernel's, the initrd's and the command line's hash")
)

// HashesTable is the table of hashes with which the firmware compares kernel,
// initrd and command line. All three are always there: OVMF boots a blob
// that the table does not name unverified.
type HashesTable struct {
	Cmdline [sha256.Size]byte // of the command line and its trailing NUL
	Initrd  [sha256.Size]byte // of the whole file; of nothing, without an initrd
	Kernel  [sha256.Size]byte // of the whole file, setup header included
}

// NewHashesTable reads kernel and initrd to their ends and hashes them.
// A nil initrd is a boot without one, and an empty command line hashes as a
// single NUL, as QEMU does it.
func NewHashesTable(kernel, initrd io.Reader, cmdline string) (HashesTable, error) {
	var t HashesTable
	if err := CheckCmdline(cmdline); err != nil {
		return t, err
	}
	if initrd == nil {
		initrd = strings.NewReader("")
	}
	var both errgroup.Group // at once: they are most of the work
	both.Go(func() error { return hashAll(&t.Kernel, kernel, "kernel") })
	both.Go(func() error { return hashAll(&t.Initrd, initrd, "initrd") })
	if err := both.Wait(); err != nil {
		return HashesTable{}, err
	}
	t.Cmdline = sha256.Sum256(append([]byte(cmdline), 0))
	return t, nil
}

// CheckCmdline refuses a command line with a NUL, after which the kernel
// would not read on, or with a line break, which is what an editor leaves at
// the end of a file and nobody sees.
func CheckCmdline(cmdline string) error {
	if i := strings.IndexAny(cmdline, "\x00\n\r"); i >= 0 {
		return fmt.Errorf("%w: byte %d is %#02x; it is one line, and its end is not part of it", errCmdline, i, cmdline[i])
	}
	return nil
}

func hashAll(sum *[sha256.Size]byte, r io.Reader, what string) error {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return fmt.Errorf("cannot hash the %s: %w", what, err)
	}
	h.Sum(sum[:0])
	return nil
}

// Marshal returns the TableSize bytes of the table.
func (t HashesTable) Marshal() []byte {
	b := make([]byte, 0, TableSize)
	b = append(b, tableGUID[:]...)
	b = binary.LittleEndian.AppendUint16(b, TableLength)
	for i, sum := range [][sha256.Size]byte{t.Cmdline, t.Initrd, t.Kernel} {
		b = append(b, entries[i][:]...)
		b = binary.LittleEndian.AppendUint16(b, tableEntry)
		b = append(b, sum[:]...)
	}
	return b[:TableSize]
}

// IsHashesTable reports whether b begins like a hashes table.
func IsHashesTable(b []byte) bool { return bytes.HasPrefix(b, tableGUID[:]) }

// ParseHashesTable reads a table and refuses what Marshal does not write: one
// without one of the three entries, or with others, lets something boot that was
// not hashed.
func ParseHashesTable(b []byte) (t HashesTable, err error) {
	if len(b) == TableSize {
		for i, sum := range []*[sha256.Size]byte{&t.Cmdline, &t.Initrd, &t.Kernel} {
			copy(sum[:], b[tableHead+i*tableEntry+tableHead:])
		}
	}
	if !bytes.Equal(t.Marshal(), b) {
		err = fmt.Errorf("%w: its GUIDs, lengths or padding differ", errTable)
	}
	return t, err
}

// HashFiles makes the table of hashes from files. An empty name means none.
func HashFiles(kernel, initrd, cmdline string) (*HashesTable, error) {
	blobs := [2]io.Reader{strings.NewReader(""), strings.NewReader("")}
	for i, what := range [2]struct{ name, path string }{{"kernel", kernel}, {"initrd", initrd}} {
		if what.path == "" {
			continue
		}
		f, err := files.OpenFinite(what.path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the %s: %w", what.name, err)
		}
		defer f.Close()
		if fi, err := f.Stat(); err == nil && fi.Size() > MaxFile { // all of it may be a hole
			return nil, fmt.Errorf("cannot read the %s: %s has more than %d bytes", what.name, what.path, int64(MaxFile))
		}
		blobs[i] = f
	}
	table, err := NewHashesTable(blobs[0], blobs[1], cmdline)
	return &table, err
}
