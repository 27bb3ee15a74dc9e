package secret

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/efi"
)

// TableGUID begins a secret table (OVMF's and the kernel's LINUX_EFI_COCO_SECRET
// table header, drivers/virt/coco/efi_secret/efi_secret.c).
var TableGUID = efi.MustParse("1e74f542-71dd-4d66-963e-ef4287ff173b")

// HeaderSize is the size in bytes of the header of a table and of an entry: a
// GUID and a length, u32 little-endian, which counts the header too.
const HeaderSize = 16 + 4

// Entry is one secret of a table.
type Entry struct {
	GUID efi.GUID
	Data []byte // aliases the table
}

// errTable is returned for a table that is not well formed.
var errTable = errors.New("the secret table is malformed")

// Entries reads a table that the owner has sent. It is stricter than the kernel is
// with an injected one: the length counts every byte, but zeros for padding may
// follow; no entry appears twice or has the NULL GUID. Errors have nothing of it:
// what is taken for a name may be a secret.
func Entries(table []byte) ([]Entry, error) {
	n := uint32(0)
	if len(table) >= HeaderSize && efi.GUID(table) == TableGUID {
		n = binary.LittleEndian.Uint32(table[16:])
	}
	if n < HeaderSize || uint64(n) > uint64(len(table)) {
		return nil, fmt.Errorf("%w: it has no header, or a wrong length", errTable)
	}
	if len(bytes.Trim(table[n:], "\x00")) > 0 {
		return nil, fmt.Errorf("%w: something follows it", errTable)
	}
	var all []Entry
	seen := make(map[efi.GUID]bool)
	for rest := table[HeaderSize:n]; len(rest) > 0; {
		if len(rest) < HeaderSize {
			return nil, fmt.Errorf("%w: an entry is cut", errTable)
		}
		g, length := efi.GUID(rest), binary.LittleEndian.Uint32(rest[16:])
		switch {
		case length < HeaderSize || uint64(length) > uint64(len(rest)):
			return nil, fmt.Errorf("%w: entry %d has a wrong length", errTable, len(all)+1)
		case g.IsZero() || seen[g]:
			return nil, fmt.Errorf("%w: the name of entry %d is there already, or is none", errTable, len(all)+1)
		case len(all) == MaxEntries:
			return nil, fmt.Errorf("%w: %w", errTable, ErrTooMany)
		}
		seen[g] = true
		all = append(all, Entry{g, rest[HeaderSize:length]})
		rest = rest[length:]
	}
	return all, nil
}

// Dir is where the workload finds the entries that it keeps, on every platform,
// one file each, named by GUID.
const Dir = "/run/cocoroot/secrets"

// Share makes the kernel's folder of injected entries visible at Dir. They are the
// kernel's own files: unlinking one wipes its bytes in the reserved page.
func (s *Store) Share() error {
	if err := makeDir(Dir); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", s.fd()), Dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot show the secrets: %w", err)
	}
	return nil
}

// makeDir makes a folder for root, in one that others may look into.
func makeDir(dir string) error {
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("cannot make a folder for the secrets: %w", err)
	}
	return nil
}

// CredentialsDir is where systemd has the credentials that came from outside
// (SYSTEM_CREDENTIALS_DIRECTORY in its src/shared/creds-util.h).
const CredentialsDir = "/run/credentials/@system"

// MountMemory makes a folder for root, and mounts a file system of memory there that
// is never swapped. Removing a file frees its pages, which the kernel zeroes
// (init_on_free=1, which the command line has).
func MountMemory(dir string) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := unix.Mount("cocoroot", dir, "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("cannot keep the secrets: %w", err)
	}
	return nil
}

// Put writes the entries that are kept to dir, as MountMemory makes it.
func Put(dir string, entries []Entry, kept func(efi.GUID) bool) error {
	if err := MountMemory(dir); err != nil {
		return err
	}
	for _, e := range entries {
		if !kept(e.GUID) {
			continue
		}
		// Straight from locked memory into the file's pages.
		if err := os.WriteFile(filepath.Join(dir, e.GUID.String()), e.Data, 0o400); err != nil {
			return fmt.Errorf("cannot keep the secret %s: %w", e.GUID, err)
		}
	}
	return nil
}
