// Package secret has the folder in which the guest's kernel shows the injected
// secrets, and removes them from it. The owner's side, secret/table, makes and
// reads the table in which they travel.
package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
)

// Dirs are the folders in which a kernel shows the entries, one file each,
// named by GUID: the released module's and the one of the patch series v6.
var Dirs = []string{
	"/sys/kernel/security/secrets/coco",
	"/sys/kernel/security/coco/efi_secret",
}

// MaxEntries is one less than the kernel shows (EFI_SECRET_NUM_FILES). It
// neither shows nor wipes more, and does not say so: a full folder may hide
// any number.
const MaxEntries = 63

// MaxKeySize is the longest key in bytes: what OVMF's secret area of 0xC00 bytes
// has room for, beside the headers of table and entry.
const MaxKeySize = 0xC00 - 2*20

// Errors returned by OpenStore and the methods of Store.
var (
	// ErrNoStore means that the kernel shows no folder of entries.
	ErrNoStore = errors.New("the kernel shows no secrets")
	// ErrAbsent means that there is no entry of that GUID.
	ErrAbsent = errors.New("there is no such entry")
	// ErrTooMany means that there are, or may be, more than MaxEntries.
	ErrTooMany = fmt.Errorf("there are more than %d entries", MaxEntries)
	// errStill means that an entry could be seen after its removal.
	errStill = errors.New("the entry is still there after its removal")
)

// errFull is returned for a folder that may not show all entries.
var errFull = fmt.Errorf("cannot see all secrets: %w; inject fewer", ErrTooMany)

// Store is the kernel's folder of entries. Removing an entry makes the kernel
// zero its bytes in the reserved page. The folder is held open, so that the
// entries can still be reached when its mount point moves.
type Store struct {
	dir *os.File
}

// OpenStore returns the first of the folders that exists.
// With none of them the error is ErrNoStore.
func OpenStore(dirs []string) (*Store, error) {
	for _, d := range dirs {
		f, err := os.OpenFile(d, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			return &Store{f}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot look for secrets: %w", err)
		}
	}
	return nil, ErrNoStore
}

// Close closes the folder; the entries stay.
func (s *Store) Close() error { return s.dir.Close() }

func (s *Store) fd() int { return int(s.dir.Fd()) }

// GUIDs returns the names of the entries. A name that is not a GUID is an
// error: the kernel makes none.
func (s *Store) GUIDs() ([]efi.GUID, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	if len(names) > MaxEntries {
		return nil, errFull
	}
	guids := make([]efi.GUID, len(names))
	for i, n := range names {
		if guids[i], err = efi.Parse(n); err != nil {
			return nil, fmt.Errorf("cannot read the names of the secrets: %w", err)
		}
	}
	return guids, nil
}

func (s *Store) names() ([]string, error) {
	// Opened again: a listing continues where the last one ended.
	fd, err := unix.Openat(s.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot list the secrets: %w", err)
	}
	d := os.NewFile(uintptr(fd), s.dir.Name())
	defer d.Close()
	names, err := d.Readdirnames(0)
	if err != nil {
		return nil, fmt.Errorf("cannot list the secrets: %w", err)
	}
	return names, nil
}

// Read returns the bytes of an entry in locked memory.
// ErrAbsent means that there is no such entry.
func (s *Store) Read(g efi.GUID) (*secmem.Buffer, error) {
	fd, err := unix.Openat(s.fd(), g.String(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, fmt.Errorf("%w: %s", ErrAbsent, g)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the secret %s: %w", g, err)
	}
	defer unix.Close(fd)
	return secmem.Read(fd, "the secret "+g.String(), MaxKeySize)
}

// RemoveAll removes every entry for which keep is false, goes on after a
// failure, and lists the folder again at the end: older kernels have a locking
// fault in the middle of a removal. A nil keep keeps nothing; then files whose
// name is no GUID go too. More than MaxEntries is ErrTooMany, after the removal
// of those that are there: the kernel may not show all.
func (s *Store) RemoveAll(keep func(efi.GUID) bool) error {
	var errs []error
	for again := range 2 {
		names, err := s.names()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if again == 0 && len(names) > MaxEntries {
			errs = append(errs, errFull)
		}
		for _, n := range names {
			if g, err := efi.Parse(n); err == nil && keep != nil && keep(g) {
				continue
			}
			if again == 1 {
				errs = append(errs, fmt.Errorf("%w: %s", errStill, n))
			} else if err := unix.Unlinkat(s.fd(), n, 0); err != nil && err != unix.ENOENT {
				errs = append(errs, fmt.Errorf("cannot remove the secret %s: %w", n, err))
			}
		}
	}
	return errors.Join(errs...)
}
