package modules

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const good = "/lib/modules/6.12/a.ko\n-/lib/modules/6.12/kernel/b.ko\n"

func TestParseList(t *testing.T) {
	list, err := ParseList(good)
	want := []Entry{{"/lib/modules/6.12/a.ko", false}, {"/lib/modules/6.12/kernel/b.ko", true}}
	if err != nil || !slices.Equal(list, want) {
		t.Fatalf("ParseList = %v, %v; want %v", list, err, want)
	}
}

func TestParseListRefuses(t *testing.T) {
	var many strings.Builder
	for i := range maxModules + 1 {
		many.WriteString("/lib/modules/" + strings.Repeat("x", i+1) + ".ko\n")
	}
	for _, s := range []string{
		"/lib/modules/a.ko", "\n", "a.ko\n", "/etc/a.ko\n", "/lib/modules/../a.ko\n",
		"/lib/modules/a.ko.xz\n", "/lib/modules/a.ko\n/lib/modules/a.ko\n", many.String(),
		"-\n", "--/lib/modules/a.ko\n", "- /lib/modules/a.ko\n", "/lib/modules/a.ko\n-/lib/modules/a.ko\n",
	} {
		if _, err := ParseList(s); !errors.Is(err, errList) {
			t.Errorf("ParseList(%.40q) error = %v; want errList", s, err)
		}
	}
}

var listSeeds = []string{good, "", "/lib/modules/../a.ko\n", "/lib/modules/a.ko"}

func TestFuzzParseListSeeds(t *testing.T) {
	for i, s := range listSeeds {
		if _, err := ParseList(s); (err == nil) != (i < 2) {
			t.Errorf("ParseList(%q) = %v; want the first two accepted", s, err)
		}
	}
}

func FuzzParseList(f *testing.F) {
	for _, s := range listSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseList(text)
		if err != nil {
			return
		}
		var again string
		for _, e := range list {
			if e.Optional {
				again += Optional
			}
			again += e.Path + "\n"
		}
		if again != text {
			t.Fatalf("ParseList = %v, which is %q; want %q", list, again, text)
		}
	})
}
