package measure

import "testing"

// seeds are images of one page, which is quickly hashed, that reach every
// part of the measurement.
func seeds() [][]byte {
	return [][]byte{
		buildImage("seed", pageSize, goodSections(), resetEntry(0x80b004), hashesEntry(0x810c00, 0x400), metadataEntry()),
		buildImage("seed", pageSize, goodSections()[:1], metadataEntry()),
		buildImage("seed", pageSize, nil, resetEntry(0)),
	}
}

// FuzzLaunch measures an image in each mode.
func FuzzLaunch(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	table, es, snp := newTestTable(f), testCPUs(f, 2, 0), testCPUs(f, 2, SNPActive)
	f.Fuzz(func(t *testing.T, image []byte) {
		fw, err := NewFirmware(image)
		if err != nil {
			return
		}
		var size uint64
		for _, s := range fw.footer.Sections {
			size += uint64(s.Size)
		}
		if size > 1<<20 {
			return // larger than is worth hashing here
		}
		if r, err := SEV(fw, table); err == nil && (len(r.Digest) != 32 || len(r.Steps) != 2) {
			t.Errorf("SEV = %+v", r)
		}
		if r, err := SEVES(fw, nil, es, Legacy); err == nil && (len(r.Digest) != 32 || len(r.Steps) != 3) {
			t.Errorf("SEVES = %+v", r)
		}
		if r, err := SNP(fw, table, snp); err == nil && (len(r.Digest) != 48 || len(r.Steps) != 3+len(fw.footer.Sections)) {
			t.Errorf("SNP = %+v", r)
		}
	})
}

// TestFuzzLaunchSeeds checks that the seeds reach a digest in each mode, and errors.
func TestFuzzLaunchSeeds(t *testing.T) {
	var digests, errs int
	count := func(_ Measurement, err error) {
		if err == nil {
			digests++
		} else {
			errs++
		}
	}
	for _, image := range seeds() {
		f, err := NewFirmware(image)
		if err != nil {
			t.Fatal(err)
		}
		count(SEV(f, newTestTable(t)))
		count(SEVES(f, nil, testCPUs(t, 2, 0), Legacy))
		count(SNP(f, newTestTable(t), testCPUs(t, 2, SNPActive)))
	}
	if digests != 3 || errs != 6 {
		t.Errorf("the seeds give %d digests and %d errors; want one digest a mode and 6 errors", digests, errs)
	}
}
