package ovmf

import (
	"reflect"
	"testing"
)

// seeds are images that reach each part of the parser.
func seeds() [][]byte {
	flipped := good()
	flipped[4]++ // length of the metadata
	return [][]byte{
		good(),
		flipped,
		image(nil),
		image(nil, entry{secretGUID, words(0, 0)}, entry{hashesGUID, words(0, 0)}),
		image(metadata(1), entry{metadataGUID, words(4096)}),
		good()[4096-200:],
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fw, err := Parse(b)
		if err != nil {
			if !reflect.DeepEqual(fw, Firmware{}) {
				t.Errorf("Parse returned %+v beside error %v", fw, err)
			}
			return
		}
		if fw.Secret.overlaps(fw.Hashes) || fw.Secret.end() > fw.Base() || fw.Hashes.end() > fw.Base() {
			t.Errorf("Parse accepted areas %+v and %+v", fw.Secret, fw.Hashes)
		}
		if len(fw.Sections) > maxSections {
			t.Errorf("Parse returned %d sections", len(fw.Sections))
		}
		for i, s := range fw.Sections {
			for _, o := range fw.Sections[:i] {
				if s.overlaps(o.Area) {
					t.Errorf("Parse accepted sections %+v and %+v", s, o)
				}
			}
		}
	})
}

// TestFuzzParseSeeds checks that the seeds get past the footer GUID, into the entries
// and into the metadata: a fuzz target that starts before its parser is green
// and worthless.
func TestFuzzParseSeeds(t *testing.T) {
	var accepted, withSections, refused int
	for _, s := range seeds() {
		switch fw, err := Parse(s); {
		case err != nil:
			refused++
		case fw.Sections != nil:
			withSections++
			accepted++
		default:
			accepted++
		}
	}
	if accepted < 3 || withSections < 2 || refused < 2 {
		t.Errorf("seeds: %d accepted, %d of them with metadata, %d refused; want at least 3, 2, 2", accepted, withSections, refused)
	}
}
