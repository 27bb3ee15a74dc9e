package measure

import (
	"slices"

	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/efi"
)

// entry is one entry of a footer.
type entry struct {
	guid string
	data []byte
}

func words(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = le.AppendUint32(b, x)
	}
	return b
}

func resetEntry(address uint32) entry {
	return entry{"00f771de-1a7e-4fcb-890e-68c77e2fb44e", words(address)}
}

func hashesEntry(base, size uint32) entry {
	return entry{"7255371f-3a3b-4b04-927b-1da6efa8d454", words(base, size)}
}

func secretEntry(base, size uint32) entry {
	return entry{"4c2eb361-7d9b-4cc3-8081-127c90d3d294", words(base, size)}
}

// metadataAt is where buildImage puts the metadata, in bytes from the end.
const metadataAt = 2048

func metadataEntry() entry {
	return entry{"dc886566-984a-4798-a75e-5585a7bf67cc", words(metadataAt)}
}

// buildImage makes an image of size bytes in counter mode with metadata and a
// footer at its end.
func buildImage(seed string, size int, sections []ovmf.Section, entries ...entry) []byte {
	b := counted(seed, size)
	metadata := append([]byte("ASEV"), words(uint32(16+12*len(sections)), 1, uint32(len(sections)))...)
	for _, s := range sections {
		metadata = append(metadata, words(s.Base, s.Size, uint32(s.Type))...)
	}
	copy(b[size-metadataAt:], metadata)
	var footer []byte
	put := func(data []byte, length int, guid string) []byte {
		g := efi.MustParse(guid)
		return append(le.AppendUint16(slices.Clone(data), uint16(length)), g[:]...)
	}
	for _, e := range entries {
		footer = append(put(e.data, len(e.data)+18, e.guid), footer...)
	}
	footer = put(footer, len(footer)+18, "96b582de-1fb2-45f7-baea-a366c55a082d")
	copy(b[size-32-len(footer):], footer)
	return b
}

// goodSections is metadata with every type, in no order of addresses.
func goodSections() []ovmf.Section {
	return []ovmf.Section{
		{Area: ovmf.Area{Base: 0x800000, Size: 0x3000}, Type: ovmf.SecMem},
		{Area: ovmf.Area{Base: 0x80d000, Size: 0x1000}, Type: ovmf.Secrets},
		{Area: ovmf.Area{Base: 0x80c000, Size: 0x1000}, Type: ovmf.CPUID},
		{Area: ovmf.Area{Base: 0x80f000, Size: 0x1000}, Type: ovmf.SVSMCAA},
		{Area: ovmf.Area{Base: 0x810000, Size: 0x1000}, Type: ovmf.KernelHashes},
		{Area: ovmf.Area{Base: 0x811000, Size: 0x2000}, Type: ovmf.SecMem},
	}
}

// amdSevSections and ovmfX64Sections are the sections of edk2's two builds for QEMU.
func amdSevSections() []ovmf.Section {
	return append(ovmfX64Sections()[:5],
		ovmf.Section{Area: ovmf.Area{Base: 0x810000, Size: 0x1000}, Type: ovmf.KernelHashes},
		ovmf.Section{Area: ovmf.Area{Base: 0x811000, Size: 0xf000}, Type: ovmf.SecMem})
}

func ovmfX64Sections() []ovmf.Section {
	return []ovmf.Section{
		{Area: ovmf.Area{Base: 0x800000, Size: 0x9000}, Type: ovmf.SecMem},
		{Area: ovmf.Area{Base: 0x80a000, Size: 0x3000}, Type: ovmf.SecMem},
		{Area: ovmf.Area{Base: 0x80d000, Size: 0x1000}, Type: ovmf.Secrets},
		{Area: ovmf.Area{Base: 0x80e000, Size: 0x1000}, Type: ovmf.CPUID},
		{Area: ovmf.Area{Base: 0x80f000, Size: 0x1000}, Type: ovmf.SVSMCAA},
		{Area: ovmf.Area{Base: 0x810000, Size: 0x10000}, Type: ovmf.SecMem},
	}
}

// amdSev and ovmfX64 are firmware of the shape of those builds, with nothing to run in it.
func amdSev(size int) []byte {
	return buildImage("cocoroot/amdsev", size, amdSevSections(),
		metadataEntry(), hashesEntry(0x810c00, 0x400), secretEntry(0x810000, 0xc00), resetEntry(0x80b004))
}

func ovmfX64() []byte {
	return buildImage("cocoroot/ovmfx64", 4096, ovmfX64Sections(),
		metadataEntry(), hashesEntry(0, 0), secretEntry(0, 0), resetEntry(0x80b004))
}

// goodFirmware has room for everything.
func goodFirmware() []byte {
	return buildImage("cocoroot/firmware", 16384, goodSections(),
		resetEntry(0x80b004), hashesEntry(0x810c00, 0x400), metadataEntry())
}

// SEV, SEVES and SNP measure in one mode.
func SEV(f Firmware, table *HashesTable) (Measurement, error) {
	return Input{Firmware: f, Table: table}.Digest("sev")
}

func SEVES(f Firmware, table *HashesTable, cpus CPUs, t VMType) (Measurement, error) {
	return Input{Firmware: f, Table: table, CPUs: cpus, VMType: t}.Digest("sev-es")
}

func SNP(f Firmware, table *HashesTable, cpus CPUs) (Measurement, error) {
	return Input{Firmware: f, Table: table, CPUs: cpus}.Digest("sev-snp")
}
