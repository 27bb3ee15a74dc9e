package table

import (
	"encoding/hex"
	"errors"
	"testing"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
)

func buffer(t *testing.T, data string) *secmem.Buffer {
	t.Helper()
	b, err := secmem.New(max(len(data), 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	copy(b.Bytes(), data)
	b.Truncate(len(data))
	return b
}

// The table of virtee/sevctl tests/secretbuild.rs.
func TestBuildVector(t *testing.T) {
	const want = "42f5741edd71664d963eef4287ff173b3a000000" +
		"e5696873f084734992ec06879ce3da0b26000000" +
		"4d592d4c554b532d50415353504852415345" + "000000000000"
	table, err := Build([]Entry{{efi.MustParse("736869e5-84f0-4973-92ec-06879ce3da0b"), buffer(t, "MY-LUKS-PASSPHRASE")}}, 0xc00)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if got := hex.EncodeToString(table.Bytes()); got != want {
		t.Errorf("Build =\n%s; want\n%s", got, want)
	}
}

func TestBuildRefuses(t *testing.T) {
	guid := func(i int) efi.GUID { return efi.GUID{1, byte(i), byte(i >> 8)} }
	many := make([]Entry, secret.MaxEntries+1)
	for i := range many {
		many[i] = Entry{guid(i), buffer(t, "x")}
	}
	full := make([]byte, 64-2*headerSize)
	for _, tc := range []struct {
		name    string
		entries []Entry
		area    int
		want    error
	}{
		{"nothing", nil, 64, errEmpty},
		{"null", []Entry{{efi.GUID{}, buffer(t, "x")}}, 64, errNull},
		{"twice", []Entry{{guid(1), buffer(t, "x")}, {guid(1), buffer(t, "y")}}, 4096, errDuplicate},
		{"64 entries", many, 65536, secret.ErrTooMany},
		{"one byte too long", []Entry{{guid(1), buffer(t, string(full)+"x")}}, 64, ErrTooBig},
		{"one entry too long", []Entry{{guid(1), buffer(t, string(make([]byte, 65)))}}, 64, ErrTooBig},
		{"63 entries fit", many[:secret.MaxEntries], 65536, nil},
		{"exactly the area", []Entry{{guid(1), buffer(t, string(full))}}, 64, nil},
	} {
		table, err := Build(tc.entries, tc.area)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: Build error = %v; want %v", tc.name, err, tc.want)
		}
		table.Close()
	}
}
