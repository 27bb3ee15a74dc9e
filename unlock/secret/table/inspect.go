package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/secret"
)

// Faults for which the kernel, or the platform before it, refuses a table.
var (
	// ErrHeader makes the kernel see no secrets at all, without a message.
	ErrHeader = errors.New("it does not begin with the GUID of a secret table")
	// errLength makes the kernel refuse the table.
	errLength = errors.New("the length in its header is less than the header or more than there is")
	// errEntry makes the kernel refuse the table and take back what it showed.
	errEntry = errors.New("the length of an entry is less than its header or more than what is left")
	// errZeros is errEntry for padding that the header's length counts.
	errZeros = fmt.Errorf("%w: 20 zero bytes or more are counted as an entry", errEntry)
)

// Listing is what a secret table holds and what the guest will see of it.
type Listing struct {
	Size    int      // bytes of the table with everything after it
	Length  int      // bytes that the header claims, its own 20 among them
	Entries []Listed // as far as they could be read
	// Inside is the number of bytes after the last entry that Length
	// counts, Outside of those that it does not. Padding is in one of them,
	// depending on the writer.
	Inside, Outside int
	// PaddingZero reports whether both consist of zeros.
	PaddingZero bool
	// Fault is why the kernel takes none of the entries, or why nobody must
	// inject the table; nil when every entry will be seen.
	Fault error
}

// Listed is an entry of a table that was read.
type Listed struct {
	Offset int // of its header, bytes from the table's start
	GUID   efi.GUID
	Data   []byte // aliases the table
}

// IsTable reports whether b begins as a secret table does.
func IsTable(b []byte) bool { return bytes.HasPrefix(b, secret.TableGUID[:]) }

// Inspect reads a table as the kernel's efi_secret_securityfs_setup does
// (drivers/virt/coco/efi_secret/efi_secret.c, Linux 6.12), for a secret area
// of area bytes. A table is the owner's, but it may come from any tool. What
// is wrong is the listing's Fault; the first fault ends the reading.
//
// Two faults are not the kernel's: a table of more than area bytes is ErrTooBig,
// for QEMU writes it over the hashes table after the area, and more than
// MaxEntries are ErrTooMany, which init takes for a table it cannot wipe.
func Inspect(table []byte, area int) Listing {
	l := Listing{Size: len(table), PaddingZero: true}
	var length uint32
	switch {
	case len(table) < headerSize:
		l.Fault = errLength
	case efi.GUID(table) != secret.TableGUID:
		l.Fault = ErrHeader
	default:
		if length = binary.LittleEndian.Uint32(table[16:]); length < headerSize || uint64(length) > uint64(len(table)) {
			l.Fault = fmt.Errorf("%w: %d of %d bytes", errLength, length, len(table))
		}
	}
	if l.Fault != nil {
		return l
	}
	l.Length = int(length)
	l.Outside = l.Size - l.Length
	l.Fault = l.readEntries(table[:length])
	if l.Fault == nil && l.Size > area {
		l.Fault = fmt.Errorf("%d bytes: %w of %d bytes", l.Size, ErrTooBig, area)
	}
	l.PaddingZero = allZero(table[l.Length-l.Inside:])
	return l
}

// readEntries reads what the header's length counts.
func (l *Listing) readEntries(table []byte) error {
	seen := make(map[efi.GUID]bool)
	at := headerSize
	for len(table)-at >= headerSize {
		e := table[at:]
		guid, length := efi.GUID(e), binary.LittleEndian.Uint32(e[16:])
		switch {
		case allZero(e):
			return fmt.Errorf("%w, at byte %d", errZeros, at)
		case length < headerSize || uint64(length) > uint64(len(e)):
			return fmt.Errorf("%w, at byte %d", errEntry, at)
		case seen[guid]:
			return fmt.Errorf("%s: %w", guid, errDuplicate)
		case !guid.IsZero() && len(seen) == secret.MaxEntries:
			return secret.ErrTooMany
		}
		if !guid.IsZero() {
			seen[guid] = true
		}
		l.Entries = append(l.Entries, Listed{at, guid, e[headerSize:length]})
		at += int(length)
	}
	l.Inside = len(table) - at
	return nil
}

// Deleted reports whether the entry has the NULL GUID: the kernel skips it.
func (e Listed) Deleted() bool { return e.GUID.IsZero() }

// EndsInNUL reports whether the last byte is zero, as grub demands of a
// passphrase; only that reader and cocoroot's init take it off.
func (e Listed) EndsInNUL() bool { return bytes.HasSuffix(e.Data, []byte{0}) }

// EndsInNewline reports whether the last byte, before a NUL, is a newline,
// which every reader takes for part of the key, and which most often comes from
// an editor.
func (e Listed) EndsInNewline() bool {
	return bytes.HasSuffix(bytes.TrimSuffix(e.Data, []byte{0}), []byte{'\n'})
}

// HasInnerNUL reports whether there is a zero byte before the last one: a
// reader that takes the entry for a C string would use less than all of it.
func (e Listed) HasInnerNUL() bool {
	return bytes.IndexByte(bytes.TrimSuffix(e.Data, []byte{0}), 0) >= 0
}

// Convention says in which way the table is padded, and whose way that is.
func (l Listing) Convention() string {
	switch {
	case l.Inside > 0:
		return fmt.Sprintf("%d bytes of padding, counted in the length", l.Inside)
	case l.Outside == 0 && l.Size%alignment != 0:
		return "no padding: LAUNCH_SECRET takes multiples of 16 bytes only"
	case l.Outside == 0:
		return "no padding needed (cocoroot, sevctl)"
	case l.Outside == alignment && l.Length%alignment == 0:
		return "16 bytes of padding that were not needed, not counted in the length (libvirt's virt-qemu-sev-validate)"
	case l.Outside < alignment && l.Size%alignment == 0:
		return fmt.Sprintf("%d bytes of padding, not counted in the length (cocoroot, sevctl, libvirt)", l.Outside)
	default:
		return fmt.Sprintf("%d bytes after the length", l.Outside)
	}
}

// NameOf says who uses a GUID, or returns "".
func NameOf(g efi.GUID) string {
	return map[string]string{
		"736869e5-84f0-4973-92ec-06879ce3da0b": "disk key (cocoroot, grub, libvirt, sevctl, Coconut SVSM)",
		"736870e5-84f0-4973-92ec-06879ce3da0b": "the example of the kernel's documentation",
		"e6f5a162-d67f-4750-a67c-5d065f2a9910": "Confidential Containers, offline bundle",
		"1ee27366-0c87-43a6-af48-28543eaf7cb0": "Confidential Containers, online connection",
	}[g.String()]
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
