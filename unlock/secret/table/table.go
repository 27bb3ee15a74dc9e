// Package table is the owner's side of the secret table: it builds one, and says
// what the guest will see of one. The guest links none of it: of an injected table
// its kernel is the reader, of one that the owner sends package secret.
//
// The table's format is the one of the kernel's efi_secret module
// (drivers/virt/coco/efi_secret/efi_secret.c): a header of GUID and u32
// little-endian length, then entries of GUID, u32 little-endian length with
// its own 20 bytes, and data; nothing is aligned.
//
// A table is not encrypted: outside a LAUNCH_SECRET packet everyone who has
// it has the secrets.
package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
)

const (
	headerSize = secret.HeaderSize
	// alignment is what LAUNCH_SECRET asks of the table's size, in bytes
	// (SEV API, LAUNCH_SECRET: a multiple of 16).
	alignment = 16
)

// Errors returned by Build.
var (
	errDuplicate = errors.New("the GUID appears twice")
	errNull      = errors.New("the NULL GUID marks deleted entries")
	ErrTooBig    = errors.New("the table does not fit the secret area")
	errEmpty     = errors.New("there is nothing to put in")
)

// Entry is one secret and its name.
type Entry struct {
	GUID efi.GUID
	Data *secmem.Buffer
}

// Build returns the table of the entries in the order given, zero-padded to a
// multiple of 16 bytes; the length in its header does not count the padding.
// It refuses what the kernel would drop or refuse, and a table of more than
// area bytes: a longer one would overwrite the hashes table after the
// secret area, which nobody else checks.
func Build(entries []Entry, area int) (*secmem.Buffer, error) {
	size := headerSize
	var seen []efi.GUID
	for _, e := range entries {
		switch {
		case e.GUID.IsZero():
			return nil, fmt.Errorf("cannot build the secret table: %w", errNull)
		case slices.Contains(seen, e.GUID):
			return nil, fmt.Errorf("cannot build the secret table: %s: %w", e.GUID, errDuplicate)
		case len(seen) == secret.MaxEntries:
			return nil, fmt.Errorf("cannot build the secret table: %w", secret.ErrTooMany)
		case len(e.Data.Bytes()) > area:
			return nil, fmt.Errorf("cannot build the secret table: %s: %w of %d bytes", e.GUID, ErrTooBig, area)
		}
		seen = append(seen, e.GUID)
		size += headerSize + len(e.Data.Bytes())
	}
	padded := (size + alignment - 1) / alignment * alignment
	switch {
	case len(entries) == 0:
		return nil, fmt.Errorf("cannot build the secret table: %w", errEmpty)
	case padded > area:
		return nil, fmt.Errorf("cannot build the secret table: %d bytes: %w of %d bytes", padded, ErrTooBig, area)
	}

	table, err := secmem.New(padded)
	if err != nil {
		return nil, err
	}
	p := putHeader(table.Bytes(), secret.TableGUID, size)
	for _, e := range entries {
		p = putHeader(p, e.GUID, headerSize+len(e.Data.Bytes()))
		p = p[copy(p, e.Data.Bytes()):]
	}
	return table, nil
}

// putHeader writes a GUID and a length, and returns what follows them.
func putHeader(p []byte, g efi.GUID, size int) []byte {
	copy(p, g[:])
	binary.LittleEndian.PutUint32(p[16:], uint32(size))
	return p[headerSize:]
}

// WarnOfEnding warns of white space at the end of a key, which counts. What
// has several lines is not a key, but text that ends in a newline by right.
func WarnOfEnding(warn func(format string, args ...any), path string, key []byte) {
	what := secret.Ending(key)
	if what == "" || bytes.ContainsRune(bytes.TrimRight(key, "\r\n\x00"), '\n') {
		return
	}
	warn("%s ends in %s, which is part of the secret; printf writes a file without, echo does not", path, what)
}
