package format

import (
	"bytes"
	"errors"
	"testing"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

func TestCheckSecondary(t *testing.T) {
	r := region(t, options())
	n, err := luks2.HeaderSize(r)
	if err != nil {
		t.Fatal(err)
	}
	first := r[:n]
	if err := checkSecondary(first, r[n:2*n]); err != nil {
		t.Fatalf("checkSecondary(what New made) = %v", err)
	}
	for name, change := range map[string]func(second []byte) []byte{
		"absent":    func(s []byte) []byte { return make([]byte, len(s)) },
		"cut":       func(s []byte) []byte { return s[:n-1] },
		"offset":    func(s []byte) []byte { s[layout.OffOffset+7]++; return s },
		"checksum":  func(s []byte) []byte { s[layout.OffChecksum]++; return s },
		"JSON only": func(s []byte) []byte { s[luks2.BinaryHeaderSize+9]++; return s },
		"JSON, summed": func(s []byte) []byte {
			s[luks2.BinaryHeaderSize+9]++
			sum := layout.Checksum(s)
			copy(s[layout.OffChecksum:], sum[:])
			return s
		},
		"sequence, summed": func(s []byte) []byte {
			s[offSequence+7]++
			sum := layout.Checksum(s)
			copy(s[layout.OffChecksum:], sum[:])
			return s
		},
	} {
		if err := checkSecondary(first, change(bytes.Clone(r[n:2*n]))); !errors.Is(err, errCopies) {
			t.Errorf("%s: checkSecondary = %v; want errCopies", name, err)
		}
	}
}
