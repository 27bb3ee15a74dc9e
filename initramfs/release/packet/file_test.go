package packet

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/strictjson"
)

// seedFiles are seeds, and whether they are taken.
func seedFiles(t testing.TB) map[string]bool {
	m := session.Measurement{Nonce: [16]byte{1}}
	good, err := strictjson.Encode(Packet{strictjson.Version, Kind, make([]byte, 52), make([]byte, 16), m})
	if err != nil {
		t.Fatal(err)
	}
	text := string(good)
	return map[string]bool{
		text: true,
		strings.Replace(text, `"version": 1`, `"version": 2`, 1):             false,
		strings.Replace(text, `"version"`, `"more": 1, "version"`, 1):        false,
		strings.Replace(text, `"kind": "sev"`, `"kind": "sev-snp"`, 1):       false,
		strings.Replace(text, `"kind": "sev",`, ``, 1):                       true,
		strings.Replace(text, `"header": "AAAA`, `"header": "`, 1):           false,
		strings.Replace(text, `"header": "AA`, `"header": "A!`, 1):           false,
		strings.Replace(text, m.String(), "", 1):                             false,
		strings.Replace(text, m.String(), session.Measurement{}.String(), 1): false,
		text + "{}":                        false,
		text[:len(text)/2]:                 false,
		"":                                 false,
		"[]":                               false,
		"null":                             false,
		text + strings.Repeat(" ", 32<<10): false,
	}
}

// TestFuzzDecodeSeeds checks that the seeds reach every end of the parser.
func TestFuzzDecodeSeeds(t *testing.T) {
	for text, want := range seedFiles(t) {
		p, err := Decode([]byte(text))
		if (err == nil) != want || (err != nil && !errors.Is(err, errFile) && !errors.Is(err, session.ErrMeasurement)) {
			t.Errorf("Decode(%.60q) error = %v; want taken: %v", text, err, want)
		}
		if want && p.Measurement.Nonce[0] != 1 {
			t.Errorf("Decode(%.60q) lost the measurement", text)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for text := range seedFiles(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			return
		}
		again, err := strictjson.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := Decode(again)
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("Decode(Encode(…)) = %+v, %v; want %+v", q, err, p)
		}
	})
}
