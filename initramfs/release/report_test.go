package release

import (
	"errors"
	"strings"
	"testing"

	"cocoroot/initramfs/release/session"
)

// reports are seeds, and whether they are taken.
func reports(t testing.TB) map[string]bool {
	r := Report{Version: 1, APIMajor: 1, APIMinor: 55, Build: 21, Policy: 7, Measurement: session.Measurement{Nonce: [16]byte{1}}}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	change := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the report has no %s: %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	return map[string]bool{
		good:                                                    true,
		strings.ReplaceAll(good, "\n", ""):                      true,
		change(`"version": 1`, `"version": 2`):                  false,
		change(`"version": 1`, `"version": ""`):                 false,
		change(`"version": 1,`, ``):                             false,
		change(`"version"`, `"tik": "", "version"`):             false,
		change(`"version"`, `"kind": "sev", "version"`):         true,
		change(`"version"`, `"kind": "sev-snp", "version"`):     false,
		change(`"build": 21`, `"build": 256`):                   false,
		change(`"build": 21`, `"build": -1`):                    false,
		change(`"policy": 7`, `"policy": 4294967296`):           false,
		change(`"measurement": "AAAA`, `"measurement": "AAA`):   false,
		change(`"measurement": "AAAA`, `"measurement": "A\nAA`): false,
		change(`AAAB`, `AAAA`):                                  false, // all zero
		good + "x":                                              false,
		good + good:                                             false,
		good[:40]:                                               false,
		good + strings.Repeat(" ", MaxReport):                   false,
		"":                                                      false,
		"null":                                                  false,
		"{}":                                                    false,
		strings.Repeat("[", 10000):                              false,
	}
}

// TestFuzzParseReportSeeds checks that the seeds reach every end of the parser.
func TestFuzzParseReportSeeds(t *testing.T) {
	for text, want := range reports(t) {
		r, err := ParseReport([]byte(text))
		if (err == nil) != want || err != nil && (!errors.Is(err, errReport) || r != Report{}) {
			t.Errorf("ParseReport(%.300q) = %+v, %v; want taken: %v", text, r, err, want)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	for text := range reports(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParseReport(again); err != nil || q != r {
			t.Errorf("ParseReport(Encode(%+v)) = %+v, %v", r, q, err)
		}
	})
}
