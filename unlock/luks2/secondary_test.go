package luks2

import (
	"bytes"
	"errors"
	"testing"
)

func TestCheckSecondary(t *testing.T) {
	r := region(t, options())
	n, err := HeaderSize(r)
	if err != nil {
		t.Fatal(err)
	}
	first := r[:n]
	if err := CheckSecondary(first, r[n:2*n]); err != nil {
		t.Fatalf("CheckSecondary(what Format made) = %v", err)
	}
	for name, change := range map[string]func(second []byte) []byte{
		"absent":     func(s []byte) []byte { return make([]byte, len(s)) },
		"cut":        func(s []byte) []byte { return s[:n-1] },
		"offset":     func(s []byte) []byte { s[offOffset+7]++; return s },
		"checksum":   func(s []byte) []byte { s[offChecksum]++; return s },
		"JSON alone": func(s []byte) []byte { s[BinaryHeaderSize+9]++; return s },
		"JSON, summed": func(s []byte) []byte {
			s[BinaryHeaderSize+9]++
			sum := checksum(s)
			copy(s[offChecksum:], sum[:])
			return s
		},
		"sequence, summed": func(s []byte) []byte {
			s[offSequence+7]++
			sum := checksum(s)
			copy(s[offChecksum:], sum[:])
			return s
		},
	} {
		if err := CheckSecondary(first, change(bytes.Clone(r[n:2*n]))); !errors.Is(err, ErrCopies) {
			t.Errorf("%s: CheckSecondary = %v; want ErrCopies", name, err)
		}
	}
}
