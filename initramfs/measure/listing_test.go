package measure

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func listSeeds(t testing.TB) [][]byte {
	table, err := NewHashesTable(strings.NewReader("kernel"), nil, "x")
	if err != nil {
		t.Fatal(err)
	}
	good := table.Marshal()
	short := bytes.Clone(good)
	short[16] = tableHead + tableEntry // only the command line's entry
	wrong := bytes.Clone(good)
	wrong[tableHead+16]--
	return [][]byte{good, good[:TableLength], short, wrong, good[:tableHead], good[:20]}
}

func TestListHashes(t *testing.T) {
	seeds := listSeeds(t)
	for i, tc := range []struct {
		names string
		err   error
	}{
		{"cmdline initrd kernel", nil}, {"cmdline initrd kernel", nil}, {"cmdline", nil}, {"", errTable}, {"", errTable}, {"", errTable},
	} {
		list, err := ListHashes(seeds[i])
		var names []string
		for _, e := range list {
			names = append(names, e.Name)
		}
		if got := strings.Join(names, " "); got != tc.names || !errors.Is(err, tc.err) {
			t.Errorf("seed %d: ListHashes = %s, %v; want %s, %v", i, got, err, tc.names, tc.err)
		}
	}
	parsed, err := ParseHashesTable(seeds[0])
	if err != nil {
		t.Fatal(err)
	}
	if list, _ := ListHashes(seeds[0]); list[0].Sum != parsed.Cmdline || list[1].Sum != parsed.Initrd || list[2].Sum != parsed.Kernel {
		t.Error("ListHashes and ParseHashesTable read different hashes")
	}
}

func FuzzListHashes(f *testing.F) {
	for _, s := range listSeeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ListHashes(b)
		if err != nil && !errors.Is(err, errTable) {
			t.Errorf("error = %v; want errTable", err)
		}
		if _, strict := ParseHashesTable(b); strict == nil && (err != nil || len(list) != 3) {
			t.Errorf("ListHashes = %d entries, %v, for a complete table", len(list), err)
		}
	})
}

// TestFuzzListHashesSeeds checks that the seeds reach entries, and errors.
func TestFuzzListHashesSeeds(t *testing.T) {
	entries, errs := 0, 0
	for _, s := range listSeeds(t) {
		list, err := ListHashes(s)
		entries += len(list)
		if err != nil {
			errs++
		}
	}
	if entries != 7 || errs != 3 {
		t.Errorf("the seeds give %d entries and %d errors; want 7 and 3", entries, errs)
	}
}
