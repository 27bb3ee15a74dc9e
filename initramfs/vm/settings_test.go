package vm

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cocoroot.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadSettings(t *testing.T) {
	got, err := ReadSettings(write(t, `# a guest
memory = 2_048
no-acpi = true
append = "a \"b\""
vcpus = [
	1, # one
	0x2,
]
"scratch" = '4G'
allow = []

[secret-file]
db = "GUID"
tls = "OTHER"
`))
	want := []Setting{
		{"memory", []string{"2_048"}, false, 2},
		{"no-acpi", []string{"true"}, false, 3},
		{"append", []string{`a "b"`}, false, 4},
		{"vcpus", []string{"1", "0x2"}, true, 5},
		{"scratch", []string{"4G"}, false, 9},
		{"allow", nil, true, 10},
		{"secret-file", []string{"db=GUID", "tls=OTHER"}, true, 12},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ReadSettings = %v, %v; want %v", got, err, want)
	}
}

// What is wrong is named with its line and its key.
func TestReadSettingsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a = 1\nb = ":                    "line 2",
		"a = 1\nb = 2\na = 3":            "line 3",
		"a = 1\n\n[[b]]\nc = 1":          "line 3: b: there are no arrays of tables",
		"a = 1\nb = 1.5":                 "line 2: b: a value is",
		"b = 2026-01-01":                 "line 1: b: a value is",
		"b = [[1]]":                      "line 1: b: a value is",
		"b = {c = 1}":                    "line 1: b: a value is",
		"[b]\nc = [1, 2]":                "line 2: c: it takes one value",
		"a = \"\xff\"":                   "line 1",
		"#" + strings.Repeat("x", 65536): "more than 65536 bytes",
	} {
		if got, err := ReadSettings(write(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadSettings(%.40q) = %v, %v; want %q", text, got, err, want)
		}
	}
	if _, err := ReadSettings("/nonexistent/x"); err == nil {
		t.Error("a file that is not there is accepted")
	}
}

var seeds = []string{"a = 1\n[b]\nc = \"d\"", "a.b = [true, 'x']", "\"a b\" = \"\"\"x\n\"\"\"", "a = {b = 1}", "[[a]]"}

func TestFuzzReadSettingsSeeds(t *testing.T) {
	for i, want := range []int{2, 1, 1} {
		if all, err := ReadSettings(write(t, seeds[i])); err != nil || len(all) != want {
			t.Errorf("%q = %v, %v; want %d settings", seeds[i], all, err, want)
		}
	}
}

// The parser is used beside the decoder: what the one accepts, the other does.
func FuzzReadSettings(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "settings")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := ReadSettings(path)
		for _, s := range all {
			if err == nil && (s.Line < 1 || s.Line > 1+strings.Count(text, "\n") || !s.Many && len(s.Values) != 1) {
				t.Errorf("%+v of %q", s, text)
			}
		}
	})
}
