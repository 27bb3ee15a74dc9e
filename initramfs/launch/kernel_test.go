package launch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

// What the test kernel does when it has printed its text.
const (
	powerOff = "66ba0406" + "66b80020" + "66ef" // mov dx,0x604; mov ax,0x2000; out dx,ax: ACPI S5 on q35
	reset    = "66baf90c" + "b006" + "ee"       // mov dx,0xcf9; mov al,6; out dx,al
	stay     = ""
)

// testKernel returns an EFI program in the clothes of a bzImage: QEMU takes
// its setup header, the firmware its PE header. It prints text on the first
// serial port, acts, and stands still. So the whole of a measured boot takes
// a second, and needs no Linux.
func testKernel(text, action string) []byte {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err)
		}
		return b
	}
	end := append(unhex(action), unhex("f4"+"ebfd")...) // hlt; jmp hlt
	code := slices.Concat(
		unhex("66baf803"), // mov dx,0x3f8
		unhex("488d35"),   // lea rsi,[rip+text]
		binary.LittleEndian.AppendUint32(nil, 3+2+1+2+uint32(len(end))),
		unhex("ac84c0"), unhex("7403"), unhex("ee"), unhex("ebf8"), // next: lodsb; test al,al; jz end; out dx,al; jmp next
		end, []byte(text), []byte{0},
	)
	code = append(code, make([]byte, 512-len(code)%512)...)

	h := make([]byte, 1024) // boot sector with the PE header, one setup sector
	put := func(at int, values ...any) {
		var b bytes.Buffer
		for _, v := range values {
			if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
				panic(err)
			}
		}
		copy(h[at:], b.Bytes())
	}
	size := uint32(len(code))
	const virtual, raw = uint32(0x1000), uint32(1024)
	copy(h, "MZ")
	put(0x3c, uint32(0x40))
	copy(h[0x40:], "PE\x00\x00")
	put(0x44, uint16(0x8664), uint16(1), uint32(0), uint32(0), uint32(0), uint16(240), uint16(0x206))
	put(0x58, uint16(0x20b), uint16(0), size, uint32(0), uint32(0), virtual, virtual)
	put(0x70, uint64(0), virtual, uint32(512), [6]uint16{}, uint32(0), virtual+(size+4095)&^4095, raw, uint32(0), uint16(10), uint16(0), [4]uint64{}, uint32(0), uint32(16))
	copy(h[0x148:], ".text")
	put(0x150, size, virtual, size, raw, uint32(0), uint32(0), uint32(0), uint32(0xe0000020))
	put(0x1f1, uint8(1)) // setup sectors
	put(0x1fe, uint16(0xaa55))
	copy(h[0x202:], "HdrS")
	put(0x206, uint16(0x20f)) // boot protocol 2.15
	put(0x211, uint8(1))      // loaded high
	put(0x22c, uint32(0x7fffffff))
	put(0x234, uint8(1), uint8(0), uint16(3), uint32(2047)) // relocatable, 64 bits, command line size
	return append(h, code...)
}
