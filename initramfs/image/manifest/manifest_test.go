package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/policy"
)

const line = `console=ttyS0 title="a&b<c>" rootfstype=squashfs cocoroot.disk=serial:root ` +
	`cocoroot.image=verity:sha256:4096:1000:00ff:aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55`

// example is a manifest as seal writes it.
func example(t testing.TB) Manifest {
	t.Helper()
	p, err := policy.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	return Manifest{
		Version: strictjson.Version, Image: p.Image, Size: p.Image.DeviceSize(), LUKS: "0b7a1f0e-1111-4222-8333-444455556666",
		FSType: p.FSType, Key: p.Key, Cmdline: line,
	}
}

func encode(t testing.TB, m Manifest) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	m := example(t)
	got, err := Parse(encode(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if got.Cmdline != line || got.Image.String() != m.Image.String() || got.Size != m.Size || got.Key != m.Key || got.FSType != m.FSType || got.LUKS != m.LUKS {
		t.Errorf("Parse = %+v; want %+v", got, m)
	}
}

// The longest command line, each byte of it escaped, fits.
func TestParseLongest(t *testing.T) {
	m := example(t)
	m.Cmdline = "x=" + strings.Repeat("<", policy.MaxLength-len(line)-3) + " " + line
	if _, err := Parse(encode(t, m)); err != nil {
		t.Errorf("%d bytes: %v", len(encode(t, m)), err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := string(encode(t, example(t)))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the manifest has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":            "",
		"no object":          "[]",
		"null":               "null",
		"half of it":         good[:len(good)/2],
		"next version":       replace(`"version": 1`, `"version": 2`),
		"no version":         replace("\n  \"version\": 1,", ""),
		"unknown field":      replace(`"version": 1`, `"version": 1, "roothash": ""`),
		"repeated field":     replace(`"version": 1`, `"size": 1, "version": 1`),
		"other case":         replace(`"size"`, `"Size"`),
		"other spaces":       compact.String(),
		"no line break":      strings.TrimSpace(good),
		"something after":    good + good,
		"other image":        replace("verity:sha256:4096:1000:00ff:aa55", "verity:sha256:4096:1000:00ff:aa56"),
		"other size":         replace(`"size": 4`, `"size": 5`),
		"other file system":  replace(`"filesystem": "squashfs"`, `"filesystem": "ext4"`),
		"other key":          replace("736869e5", "736869e6"),
		"no UUID":            replace("0b7a1f0e-", "0b7a1f0e"),
		"line of nothing":    replace("cocoroot.image=", "cocoroot.imagine="),
		"too long":           good + strings.Repeat(" ", MaxSize),
		"a version of text":  replace(`"version": 1`, `"version": "1"`),
		"a size below zero":  replace(`"size": 4`, `"size": -4`),
		"a size of a number": replace(`"size": 4`, `"size": 4e0`),
	} {
		if m, err := Parse([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Parse = %+v, %v; want ErrFormat", name, m, err)
		}
	}
}

// seeds are where fuzzing begins: one manifest that is read to its end, and
// one whose command line is refused.
func seeds(t testing.TB) [][]byte {
	good := encode(t, example(t))
	return [][]byte{good, bytes.Replace(good, []byte("serial:"), []byte("serials"), 1)}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("error %v; want ErrFormat", err)
			}
			return
		}
		if again := encode(t, m); !bytes.Equal(again, b) {
			t.Errorf("%q was read, and is written as %q", b, again)
		}
	})
}

func TestFuzzParseSeeds(t *testing.T) {
	all := seeds(t)
	if _, err := Parse(all[0]); err != nil {
		t.Errorf("the first seed is refused: %v", err)
	}
	if _, err := Parse(all[1]); !errors.Is(err, policy.ErrMalformed) {
		t.Errorf("the second seed: %v; want its command line refused", err)
	}
}
