package ovmf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"cocoroot/unlock/efi"
)

const (
	fourGiB = 1 << 32

	// resetVectorSize is the number of bytes between the footer's end and
	// the end of the image: the last 32 bytes hold the reset vector.
	resetVectorSize = 32
	// headSize is the size of what follows the data of each entry: u16
	// little-endian length of data and head together, then the GUID.
	headSize = 2 + 16
)

// Parse reads the footer of a whole firmware image. Entries that it does not
// know are skipped. It reads at most the 64 KiB that a footer can be long and
// the metadata that it points at, and keeps no reference to image.
func Parse(image []byte) (Firmware, error) {
	f := Firmware{ImageSize: len(image)}
	if uint64(len(image)) > fourGiB/2 {
		return Firmware{}, fmt.Errorf("%w: %d bytes are not firmware", ErrNoFooter, len(image))
	}
	end := len(image) - resetVectorSize
	if end < headSize {
		return Firmware{}, fmt.Errorf("%w: only %d bytes", ErrNoFooter, len(image))
	}
	guid, entries, _, err := lastEntry(image[:end]) // the footer has the form of its entries, and they are its data
	if guid != footerGUID {
		return Firmware{}, ErrNoFooter
	}
	if err != nil {
		return Firmware{}, err
	}
	seen := map[efi.GUID]bool{footerGUID: true}
	for len(entries) > 0 {
		guid, data, rest, err := lastEntry(entries)
		if err != nil {
			return Firmware{}, err
		}
		if seen[guid] {
			return Firmware{}, fmt.Errorf("%w: entry %s appears twice", ErrFooter, guid)
		}
		seen[guid] = true
		if err := f.take(guid, data, image); err != nil {
			return Firmware{}, fmt.Errorf("%w: entry %s: %w", ErrFooter, guid, err)
		}
		entries = rest
	}
	if f.Secret.overlaps(f.Hashes) {
		return Firmware{}, fmt.Errorf("%w: the secret area at %#x overlaps the hashes area at %#x", ErrFooter, f.Secret.Base, f.Hashes.Base)
	}
	return f, nil
}

// lastEntry splits the last entry off b.
func lastEntry(b []byte) (guid efi.GUID, data, rest []byte, err error) {
	if len(b) < headSize {
		return guid, nil, nil, fmt.Errorf("%w: %d bytes are left before its first entry", ErrFooter, len(b))
	}
	head := b[len(b)-headSize:]
	guid, length := efi.GUID(head[2:]), int(binary.LittleEndian.Uint16(head))
	if length < headSize || length > len(b) {
		return guid, nil, nil, fmt.Errorf("%w: entry %s is %d bytes long, of which there is room for %d to %d", ErrFooter, guid, length, headSize, len(b))
	}
	start := len(b) - length
	return guid, b[start : len(b)-headSize], b[:start], nil
}

// take puts the value of one entry where it belongs.
func (f *Firmware) take(guid efi.GUID, data, image []byte) (err error) {
	var fromEnd uint32
	into, known := map[efi.GUID]any{
		secretGUID: &f.Secret, hashesGUID: &f.Hashes, resetGUID: &f.ResetAddress, metadataGUID: &fromEnd,
	}[guid]
	if !known {
		return nil
	}
	if want := binary.Size(into); len(data) != want {
		return fmt.Errorf("%d bytes of data; want %d", len(data), want)
	}
	if _, err := binary.Decode(data, binary.LittleEndian, into); err != nil {
		return err
	}
	switch guid {
	case secretGUID:
		return f.check(f.Secret)
	case hashesGUID:
		return f.check(f.Hashes)
	case metadataGUID:
		f.Sections, err = f.metadata(image, fromEnd)
	}
	return err
}

// check refuses an area that reaches into the firmware or past 4 GiB.
func (f *Firmware) check(a Area) error {
	if a.end() > f.Base() {
		return fmt.Errorf("%#x bytes at %#x reach into the firmware at %#x", a.Size, a.Base, f.Base())
	}
	return nil
}

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
