package main_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unicode/utf16"

	"cocoroot/unlock/efi"
)

// What a host makes for a firmware that runs or reads it: a program, and the
// ways to hand it over. The program only says that it ran.

// hostRan is what the host's program writes to the I/O port spyPort.
const (
	hostRan = "HOST-CODE-RAN"
	spyPort = 0x505
)

// le puts values of fixed size together, little-endian and without padding.
func le(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// padded returns b with zeros up to the size.
func padded(b []byte, size int) []byte {
	return append(b, make([]byte, size-len(b))...)
}

// efiProgram returns an EFI driver for x86-64 that writes hostRan to spyPort
// and returns success: PE32+ with one section (PE format, 2.4.1 to 4; UEFI
// 2.10, 2.1.1).
func efiProgram() []byte {
	const page, block = 4096, 512 // alignment in memory and in the file
	code := []byte{
		0x56,                                     // push rsi
		0x66, 0xba, spyPort & 0xff, spyPort >> 8, // mov dx, spyPort
		0x48, 0x8d, 0x35, 11, 0, 0, 0, // lea rsi, [rip + 11], the text
		0xb9, byte(len(hostRan)), 0, 0, 0, // mov ecx, its length
		0xf3, 0x6e, // rep outsb
		0x31, 0xc0, // xor eax, eax
		0x5e, // pop rsi
		0xc3, // ret
	}
	code = append(code, hostRan...)
	head := le(
		[]byte("MZ"), make([]byte, 58), uint32(64), // where the PE header is
		[]byte("PE\x00\x00"),
		// COFF: x86-64, one section, size of the optional header; executable,
		// addresses of 64 bits, no debug information.
		uint16(0x8664), uint16(1), [3]uint32{}, uint16(112), uint16(0x222),
		// Optional header: PE32+, no linker; sizes of code and data; entry
		// point and code at the first page; base 0.
		uint16(0x20b), uint16(0), uint32(block), [2]uint32{}, uint32(page), uint32(page), uint64(0),
		uint32(page), uint32(block), [4]uint32{}, // alignments, versions
		uint32(2*page), uint32(block), uint32(0), // size of the image, of the headers, checksum
		uint16(11), uint16(0), // EFI boot service driver
		[4]uint64{}, [2]uint32{}, // stack, heap, no directories
		[]byte(".text\x00\x00\x00"), uint32(len(code)), uint32(page), uint32(block), uint32(block),
		[3]uint32{}, uint32(0x60000020), // code, executable, readable
	)
	return append(padded(head, block), padded(code, block)...)
}

// optionROM returns the program as the expansion ROM of the PCI device (PCI
// Firmware 3.0, 5.1; UEFI 2.10, 14.4.2).
func optionROM(program []byte, vendor, device uint16) []byte {
	const at, info, unit, least = 64, 28, 512, 4096 // upstream reads no ROM below the least
	size := max(least, (at+len(program)+unit-1)) / unit
	rom := le(
		uint16(0xaa55), uint16(size), uint32(0xef1), uint16(11), uint16(0x8664), // EFI, driver, x86-64
		uint16(0), [4]uint16{}, uint16(at), uint16(info), uint16(0), // not compressed
		[]byte("PCIR"), vendor, device, uint16(0), uint16(24), uint8(0), [3]uint8{0, 0, 2}, // class: network
		uint16(size), uint16(0), uint8(3), uint8(0x80), uint16(0), // EFI image, the last one
	)
	return padded(append(padded(rom, at), program...), size*unit)
}

// wide returns a text as EFI has it: UTF-16 with an end.
func wide(text string) []byte { return le(utf16.Encode([]rune(text + "\x00"))) }

// loadOption returns the value of a variable Boot#### or Driver#### that names
// a file, on whichever file system it is (UEFI 2.10, 3.1.3 and 10.3.4.4).
func loadOption(file string) []byte {
	name := wide(file)
	path := le(uint8(4), uint8(4), uint16(4+len(name)), name, uint32(0x4ff7f)) // 7f ff 04 00: the end
	return le(uint32(1), uint16(len(path)), wide("host"), path)                // active
}

var globalVariable = efi.MustParse("8be4df61-93ca-11d2-aa0d-00e098032b8c")

// variables names the program on the host's disk in every order to run it.
func variables() map[string][]byte {
	option := loadOption(`\` + programFile)
	return map[string][]byte{
		"Driver0000": option, "DriverOrder": le(uint16(0)),
		"SysPrep0000": option, "SysPrepOrder": le(uint16(0)),
		"Boot0000": option, "BootOrder": le(uint16(0)), "BootNext": le(uint16(0)),
	}
}

// storeVariables adds the variables to the empty store with which a firmware
// image begins (edk2, MdeModulePkg/Include/Guid/VariableFormat.h:
// AUTHENTICATED_VARIABLE_HEADER).
func storeVariables(t *testing.T, image []byte) []byte {
	t.Helper()
	const store, head = 0x48, 28 // after the volume's header; of the store
	authenticated := efi.MustParse("aaf32c78-947b-439a-a180-2e144ec37792")
	if !bytes.HasPrefix(image[store:], authenticated[:]) {
		t.Fatal("the firmware does not begin with a variable store")
	}
	image = bytes.Clone(image)
	at := store + head
	for name, data := range variables() {
		n := wide(name)
		b := le(uint16(0x55aa), uint8(0x3f), uint8(0), uint32(7), // valid; non-volatile, for boot and run time
			uint64(0), [16]byte{}, uint32(0), uint32(len(n)), uint32(len(data)), globalVariable[:], n, data)
		copy(image[at:], b)
		at += (len(b) + 3) &^ 3
	}
	return image
}

// nvVars returns the variables as OVMF keeps them in a file of a FAT disk when
// there is no flash (edk2, OvmfPkg/Library/SerializeVariablesLib).
func nvVars() []byte {
	var b []byte
	for name, data := range variables() {
		n := wide(name)
		b = append(b, le(uint32(len(n)), n, globalVariable[:], uint32(len(data)), data)...)
	}
	return b
}

// programFile is the host's program on its FAT disk.
const programFile = "HOST.EFI"

// fatDisk returns a FAT12 file system with files of 8.3 names in its root
// (Microsoft's FAT specification of 2000, sections 3 to 6).
func fatDisk(files map[string][]byte) []byte {
	const sector, sectors, fatSectors, rootEntries = 512, 2048, 6, 64
	const root = 1 + fatSectors
	const data = root + rootEntries*32/sector
	disk := make([]byte, sector*sectors)
	copy(disk, le([]byte("\xeb\x3c\x90COCOROOT"), uint16(sector), uint8(1), uint16(1), uint8(1),
		uint16(rootEntries), uint16(sectors), uint8(0xf8), uint16(fatSectors), uint16(1), uint16(1), [2]uint32{},
		uint8(0x80), uint8(0), uint8(0x29), uint32(1), []byte("HOST       FAT12   ")))
	copy(disk[sector-2:], "\x55\xaa")
	fat := func(cluster, next int) {
		at := sector + cluster*3/2
		v := uint16(next) << (cluster % 2 * 4)
		disk[at] |= byte(v)
		disk[at+1] |= byte(v >> 8)
	}
	fat(0, 0xff8)
	fat(1, 0xfff)
	cluster, entry := 2, disk[root*sector:]
	for name, content := range files {
		base, extension, _ := bytes.Cut([]byte(name), []byte("."))
		copy(entry, bytes.Repeat([]byte(" "), 11))
		copy(entry, base)
		copy(entry[8:], extension)
		copy(entry[26:], le(uint16(cluster), uint32(len(content))))
		entry = entry[32:]
		copy(disk[(data+cluster-2)*sector:], content)
		n := (len(content) + sector - 1) / sector
		for ; n > 1; n-- {
			fat(cluster, cluster+1)
			cluster++
		}
		fat(cluster, 0xfff)
		cluster++
	}
	return disk
}
