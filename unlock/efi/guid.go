// Package efi has the one EFI data type that the secret table, the hashes
// table and the OVMF footer share: the GUID.
//
// It protects nothing; it only keeps text and bytes from being mixed up.
package efi

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// GUID is an EFI GUID as it lies in memory: 16 bytes, the first three fields
// little-endian, the rest in the order of the text (UEFI 2.10, appendix A;
// Python calls it bytes_le).
type GUID [16]byte

// errGUID is returned for a text that is not a GUID.
var errGUID = errors.New("not a GUID of the form 01234567-89ab-cdef-0123-456789abcdef")

// order[i] is the place in the text of byte i of the memory form.
var order = [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}

// Parse reads the 36-character text form. Upper and lower case are the same;
// braces, spaces and missing dashes are refused.
func Parse(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%w: %.64q", errGUID, s)
	}
	text, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return g, fmt.Errorf("%w: %.64q", errGUID, s)
	}
	for i, from := range order {
		g[i] = text[from]
	}
	return g, nil
}

// MustParse is Parse for the constants of this program.
func MustParse(s string) GUID {
	g, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return g
}

// String returns the lower-case text form, as the kernel names its files.
func (g GUID) String() string {
	var text [16]byte
	for i, to := range order {
		text[to] = g[i]
	}
	h := hex.EncodeToString(text[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero reports whether g is the NULL GUID, which marks a deleted entry.
func (g GUID) IsZero() bool { return g == GUID{} }

// MarshalText implements encoding.TextMarshaler.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *GUID) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*g = p
	return nil
}
