package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"cocoroot/unlock/efi"
)

// ListedHash is one entry of a hashes table.
type ListedHash struct {
	GUID efi.GUID
	Name string // kernel, initrd or cmdline; "" for a GUID that is not known
	Sum  [sha256.Size]byte
}

// IsHashesTable reports whether b begins like a hashes table.
func IsHashesTable(b []byte) bool {
	return len(b) >= len(tableGUID) && efi.GUID(b[:len(tableGUID)]) == tableGUID
}

// ListHashes reads a table, complete or not, as OVMF's verifier does, and the
// entries up to the first one that is wrong. It is for telling what is in a
// table; CheckHashesTable says whether to use it.
func ListHashes(b []byte) ([]ListedHash, error) {
	if len(b) < tableHead || !IsHashesTable(b) {
		return nil, fmt.Errorf("%w: it does not begin with a table's GUID and length", errTable)
	}
	length := int(binary.LittleEndian.Uint16(b[tableHead-2:]))
	if length < tableHead || length > len(b) {
		return nil, fmt.Errorf("%w: its length is %d bytes, and %d are there", errTable, length, len(b))
	}
	var all []ListedHash
	for rest := b[tableHead:length]; len(rest) > 0; rest = rest[tableEntry:] {
		if len(rest) < tableEntry {
			return all, fmt.Errorf("%w: %d bytes are left, too few for an entry", errTable, len(rest))
		}
		if n := binary.LittleEndian.Uint16(rest[tableHead-2:]); n != tableEntry {
			return all, fmt.Errorf("%w: entry %d has %d bytes; want %d", errTable, len(all)+1, n, tableEntry)
		}
		e := ListedHash{GUID: efi.GUID(rest[:16]), Sum: [sha256.Size]byte(rest[tableHead:])}
		for _, known := range entries {
			if known.guid == e.GUID {
				e.Name = known.name
			}
		}
		all = append(all, e)
	}
	return all, nil
}
