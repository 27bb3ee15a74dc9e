package ovmf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// SectionType says what the launch puts into a section's pages.
type SectionType uint32

// The section types of SEV metadata version 1 (edk2
// OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
const (
	SecMem       SectionType = 1    // zeroed memory that the firmware uses before it has its own
	Secrets      SectionType = 2    // SEV-SNP secrets page
	CPUID        SectionType = 3    // SEV-SNP CPUID page
	SVSMCAA      SectionType = 4    // calling area of an SVSM
	KernelHashes SectionType = 0x10 // page with the kernel hashes
)

// String returns edk2's name of the type.
func (t SectionType) String() string {
	names := map[SectionType]string{SecMem: "sec_mem", Secrets: "secrets", CPUID: "cpuid", SVSMCAA: "svsm_caa", KernelHashes: "kernel_hashes"}
	if name, ok := names[t]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", uint32(t))
}

// Section is a run of whole pages that the launch prepares and measures.
type Section struct {
	Area
	Type SectionType
}

const (
	pageSize = 4096

	// metadataHead is the size in bytes of "ASEV", then u32 little-endian
	// length of head and sections, version, number of sections.
	metadataHead = 16
	// sectionSize is the size in bytes of u32 address, size and type.
	sectionSize = 12
	// maxSections bounds the work; builds of today have 7.
	maxSections = 256
)

// metadata reads the SEV metadata that begins fromEnd bytes before the end of
// the image.
func (f *Firmware) metadata(image []byte, fromEnd uint32) ([]Section, error) {
	if uint64(fromEnd) > uint64(len(image)) || fromEnd < metadataHead {
		return nil, fmt.Errorf("metadata %d bytes before the end does not lie in the image", fromEnd)
	}
	b := image[len(image)-int(fromEnd):]
	var head struct {
		Signature              [4]byte
		Length, Version, Count uint32
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &head); err != nil {
		return nil, err
	}
	switch want := uint64(metadataHead + head.Count*sectionSize); {
	case string(head.Signature[:]) != "ASEV":
		return nil, errors.New("it does not point at SEV metadata")
	case head.Version != 1:
		return nil, fmt.Errorf("metadata version %d; want 1", head.Version)
	case head.Count > maxSections:
		return nil, fmt.Errorf("%d metadata sections; at most %d are believed", head.Count, maxSections)
	case uint64(head.Length) != want || want > uint64(len(b)):
		return nil, fmt.Errorf("metadata of %d bytes for %d sections; want %d, and %d are there", head.Length, head.Count, want, len(b))
	}
	sections := make([]Section, head.Count)
	if _, err := binary.Decode(b[metadataHead:], binary.LittleEndian, sections); err != nil {
		return nil, err
	}
	for _, s := range sections {
		if !s.Present() || s.Base%pageSize != 0 || s.Size%pageSize != 0 {
			return nil, fmt.Errorf("metadata section of %#x bytes at %#x is not a run of pages", s.Size, s.Base)
		}
		if err := f.check(s.Area); err != nil {
			return nil, err
		}
	}
	return sections, checkApart(sections)
}

// checkApart refuses sections that share a page: the second would measure
// what the first has already given to the guest.
func checkApart(sections []Section) error {
	sorted := slices.Clone(sections)
	slices.SortFunc(sorted, func(a, b Section) int { return cmp.Compare(a.Base, b.Base) })
	for i := 1; i < len(sorted); i++ {
		if sorted[i].overlaps(sorted[i-1].Area) {
			return fmt.Errorf("metadata sections at %#x and %#x overlap", sorted[i-1].Base, sorted[i].Base)
		}
	}
	return nil
}
