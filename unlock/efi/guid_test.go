package efi

import (
	"encoding/hex"
	"errors"
	"testing"
)

func TestGUIDMemoryForm(t *testing.T) {
	// The secret table's header GUID, from a table made by sevctl.
	const text = "1e74f542-71dd-4d66-963e-ef4287ff173b"
	const memory = "42f5741edd71664d963eef4287ff173b"
	g, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(g[:]); got != memory {
		t.Errorf("Parse(%q) = %s; want %s", text, got, memory)
	}
	if g.String() != text {
		t.Errorf("String() = %s; want %s", g, text)
	}
	up, err := Parse("1E74F542-71DD-4D66-963E-EF4287FF173B")
	if err != nil || up != g {
		t.Errorf("Parse(upper case) = %v, %v; want %v", up, err, g)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", "1e74f542", "1e74f54271dd4d66963eef4287ff173b",
		"{1e74f542-71dd-4d66-963e-ef4287ff173b}",
		"1e74f542-71dd-4d66-963e-ef4287ff173g",
		"1e74f542-71dd-4d66-963e-ef4287ff173b ",
		"1e74f5427-1dd-4d66-963e-ef4287ff173b",
	} {
		if _, err := Parse(s); !errors.Is(err, errGUID) {
			t.Errorf("Parse(%q) error = %v; want errGUID", s, err)
		}
	}
}
