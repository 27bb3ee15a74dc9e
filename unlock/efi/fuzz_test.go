package efi

import (
	"errors"
	"strings"
	"testing"
)

var seeds = []string{
	"1e74f542-71dd-4d66-963e-ef4287ff173b", "1E74F542-71DD-4D66-963E-EF4287FF173B", "00000000-0000-0000-0000-000000000000",
	"{1e74f542-71dd-4d66-963e-ef4287ff173b}", "1e74f542-71dd-4d66-963e-ef4287ff173g",
}

// FuzzParse: a GUID has one text, but for the case of its letters.
func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := Parse(s)
		if err != nil {
			if !errors.Is(err, errGUID) || g != (GUID{}) {
				t.Errorf("Parse(%q) = %v, %v; want errGUID and no GUID", s, g, err)
			}
			return
		}
		if g.String() != strings.ToLower(s) {
			t.Errorf("Parse(%q).String() = %s", s, g)
		}
	})
}

func TestFuzzParseSeeds(t *testing.T) {
	for i, s := range seeds {
		if _, err := Parse(s); (err == nil) != (i < 3) {
			t.Errorf("Parse(%q) = %v; want the first three accepted", s, err)
		}
	}
}
