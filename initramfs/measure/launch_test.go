package measure

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
)

// newTestTable is the table of a kernel only.
func newTestTable(t testing.TB) *HashesTable {
	t.Helper()
	table, err := NewHashesTable(strings.NewReader("kernel"), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	return &table
}

// measureAll measures an image in each mode, with or without a kernel.
func measureAll(t *testing.T, image []byte, table *HashesTable) (sev, es, snp error) {
	t.Helper()
	f, err := NewFirmware(image)
	if err != nil {
		return err, err, err
	}
	_, sev = SEV(f, table)
	_, es = SEVES(f, table, testCPUs(t, 2, 0), Legacy)
	_, snp = SNP(f, table, testCPUs(t, 2, SNPActive))
	return sev, es, snp
}

// TestBadFirmware has each image refused in the modes in which it cannot be
// launched, and in no other.
func TestBadFirmware(t *testing.T) {
	reset, hashes, meta := resetEntry(0x80b004), hashesEntry(0x810c00, 0x400), metadataEntry()
	build := func(s []ovmf.Section, e ...entry) []byte { return buildImage("bad", 8192, s, e...) }
	edit := func(i int, s ovmf.Section) []ovmf.Section {
		all := goodSections()
		all[i] = s
		return all
	}
	at := func(base, size uint32, t ovmf.SectionType) ovmf.Section {
		return ovmf.Section{Area: ovmf.Area{Base: base, Size: size}, Type: t}
	}
	good := goodFirmware()
	table := newTestTable(t)
	for name, tt := range map[string]struct {
		image        []byte
		table        *HashesTable
		sev, es, snp error
	}{
		"good":                             {good, table, nil, nil, nil},
		"good, no kernel":                  {good, nil, nil, nil, nil},
		"empty":                            {nil, table, ovmf.ErrNoFooter, ovmf.ErrNoFooter, ovmf.ErrNoFooter},
		"truncated at the end":             {good[:len(good)-1], table, ovmf.ErrNoFooter, ovmf.ErrNoFooter, ovmf.ErrNoFooter},
		"truncated at the start":           {good[100:], table, errFirmware, errFirmware, errFirmware},
		"footer entry points outside":      {build(goodSections(), reset, hashes, entry{meta.guid, words(8193)}), table, ovmf.ErrFooter, ovmf.ErrFooter, ovmf.ErrFooter},
		"hashes area in the firmware":      {build(goodSections(), reset, hashesEntry(0xfffffc00, 0x400), meta), table, ovmf.ErrFooter, ovmf.ErrFooter, ovmf.ErrFooter},
		"overlapping sections":             {build(edit(1, at(0x802000, 0x1000, ovmf.Secrets)), reset, hashes, meta), table, ovmf.ErrFooter, ovmf.ErrFooter, ovmf.ErrFooter},
		"unknown section type":             {build(edit(3, at(0x80f000, 0x1000, 5)), reset, hashes, meta), table, nil, nil, errFirmware},
		"unknown section type, no kernel":  {build(edit(3, at(0x80f000, 0x1000, 0x11)), reset, hashes, meta), nil, nil, nil, errFirmware},
		"two secrets pages in one section": {build(edit(1, at(0x820000, 0x2000, ovmf.Secrets)), reset, hashes, meta), nil, nil, nil, errFirmware},
		"two CPUID pages in one section":   {build(edit(2, at(0x820000, 0x2000, ovmf.CPUID)), reset, hashes, meta), nil, nil, nil, errFirmware},
		"two hashes pages in one section":  {build(edit(4, at(0x820000, 0x2000, ovmf.KernelHashes)), reset, hashes, meta), nil, nil, nil, errFirmware},
		"no metadata":                      {build(nil, reset, hashes), table, nil, nil, errFirmware},
		"no hashes entry":                  {build(goodSections(), reset, meta), table, ovmf.ErrNoArea, ovmf.ErrNoArea, ovmf.ErrNoArea},
		"no hashes entry, no kernel":       {build(goodSections(), reset, meta), nil, nil, nil, nil},
		"hashes area of no bytes":          {build(goodSections(), reset, hashesEntry(0x810c00, 0), meta), table, ovmf.ErrNoArea, ovmf.ErrNoArea, ovmf.ErrNoArea},
		"hashes area at 0":                 {build(goodSections(), reset, hashesEntry(0, 0x400), meta), table, ovmf.ErrNoArea, ovmf.ErrNoArea, ovmf.ErrNoArea},
		"hashes area too small":            {build(goodSections(), reset, hashesEntry(0x810c00, TableSize-1), meta), table, ovmf.ErrTooLong, ovmf.ErrTooLong, ovmf.ErrTooLong},
		"hashes area fits":                 {build(goodSections(), reset, hashesEntry(0x810c00, TableSize), meta), table, nil, nil, nil},
		"no hashes section":                {build(edit(4, at(0x810000, 0x1000, ovmf.SecMem)), reset, hashes, meta), table, nil, nil, ovmf.ErrNoArea},
		"no hashes section, no kernel":     {build(edit(4, at(0x810000, 0x1000, ovmf.SecMem)), reset, hashes, meta), nil, nil, nil, nil},
		"hashes section elsewhere":         {build(edit(4, at(0x820000, 0x1000, ovmf.KernelHashes)), reset, hashes, meta), table, nil, nil, ovmf.ErrNoArea},
		"hashes across two pages":          {build(goodSections(), reset, hashesEntry(0x810fff, 0x400), meta), table, nil, nil, ovmf.ErrNoArea},
		"no reset address":                 {build(goodSections(), hashes, meta), table, nil, errFirmware, errFirmware},
		"reset address 0":                  {build(goodSections(), resetEntry(0), hashes, meta), table, nil, errFirmware, errFirmware},
		"not a number of pages":            {append(make([]byte, 100), good...), table, errFirmware, errFirmware, errFirmware},
	} {
		t.Run(name, func(t *testing.T) {
			sev, es, snp := measureAll(t, tt.image, tt.table)
			for _, m := range []struct {
				mode      string
				got, want error
			}{{"sev", sev, tt.sev}, {"sev-es", es, tt.es}, {"sev-snp", snp, tt.snp}} {
				if !errors.Is(m.got, m.want) {
					t.Errorf("%s: error = %v; want %v", m.mode, m.got, m.want)
				}
			}
		})
	}
}

// TestCPUsOfTheWrongMode checks that no mode measures CPUs which its guests
// cannot have.
func TestCPUsOfTheWrongMode(t *testing.T) {
	f, err := NewFirmware(goodFirmware())
	if err != nil {
		t.Fatal(err)
	}
	es := func(c CPUs) error { _, err := SEVES(f, nil, c, Init2); return err }
	snp := func(c CPUs) error { _, err := SNP(f, nil, c); return err }
	for name, err := range map[string]error{
		"sev-es without CPUs":       es(CPUs{}),
		"sev-es with SNPActive":     es(testCPUs(t, 1, SNPActive)),
		"sev-snp without CPUs":      snp(CPUs{}),
		"sev-snp without SNPActive": snp(testCPUs(t, 1, 1<<5)),
	} {
		if !errors.Is(err, ErrCPUs) {
			t.Errorf("%s: error = %v; want ErrCPUs", name, err)
		}
	}
}

// TestVMSADiffers checks that what the owner names is in the VMSA, and that AP
// and boot processor are told apart.
func TestVMSADiffers(t *testing.T) {
	f, err := NewFirmware(goodFirmware())
	if err != nil {
		t.Fatal(err)
	}
	page := func(c CPUs, vm VMType) *vmsa {
		r, err := SEVES(f, nil, c, vm)
		if err != nil {
			t.Fatal(err)
		}
		if c.count == 1 && r.ap != nil || c.count > 1 && bytes.Equal(r.ap[:], r.bsp[:]) {
			t.Errorf("%d CPUs: AP VMSA wrong", c.count)
		}
		return r.bsp
	}
	all := map[vmsa]string{}
	add := func(name string, v *vmsa) {
		if other, ok := all[*v]; ok {
			t.Errorf("the VMSA of %q is that of %q", name, other)
		}
		all[*v] = name
	}
	add("base", page(testCPUs(t, 2, 0), Init2))
	add("legacy", page(testCPUs(t, 1, 0), Legacy))
	add("debug swap", page(testCPUs(t, 1, 1<<5), Init2))
	other := testCPUs(t, 1, 0)
	other.signature++
	add("other stepping", page(other, Init2))
}

// BenchmarkSNP measures firmware of a real size without a kernel: one that
// repeats no page, and a real one, which is mostly padding.
func BenchmarkSNP(b *testing.B) {
	real, err := os.ReadFile(oracle.Artifact(b, "OVMF.amdsev.fd"))
	if err != nil {
		b.Fatal(err)
	}
	for name, image := range map[string][]byte{
		"dense": buildImage("bench", 4<<20, goodSections(), resetEntry(0x80b004), metadataEntry()),
		"OVMF":  real,
	} {
		f, err := NewFirmware(image)
		if err != nil {
			b.Fatal(err)
		}
		cpus := testCPUs(b, 4, SNPActive)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(image)))
			for b.Loop() {
				if _, err := SNP(f, nil, cpus); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
