package measure

import "encoding/binary"

var le = binary.LittleEndian

// vmsa is the page that holds the registers of one virtual CPU at its start
// (AMD64 Architecture Programmer's Manual volume 2, table B-4; all fields are
// little-endian). Bytes that are not set here are zero.
type vmsa [pageSize]byte

// Offsets of the fields, in bytes, that are set at more than one place. A segment
// register is a u16 selector, u16 attributes, u32 limit, and a u64 base.
const (
	vmsaCS    = 0x010
	vmsaSS    = 0x020
	vmsaTR    = 0x090
	vmsaPAT   = 0x268
	vmsaRDX   = 0x310
	vmsaMXCSR = 0x408
	vmsaFCW   = 0x410
)

// bootEIP is where the boot processor starts: the reset vector.
const bootEIP = 0xfffffff0

// segment returns the first word of a segment register.
func segment(limit, attributes, selector uint64) uint64 {
	return limit<<32 | attributes<<16 | selector
}

// newVMSA returns the page of a processor that starts in real mode at eip under
// KVM: the processor's state after reset (APM volume 2, table 14-1), with
// EFER.SVME and CR4.MCE, which KVM sets, and in RDX the signature. With fpu it
// has the state of the floating-point unit in it, which KVM leaves out for a
// VM of the legacy type.
//
// A VMM other than QEMU has no such state either, and RDX as the APM has it
// after reset, whatever the processor (virtee/sev-snp-measure vmsa.py at
// 8f2b337).
func newVMSA(eip uint32, cpus CPUs, fpu bool) *vmsa {
	data := segment(0xffff, 0x93, 0)
	r := map[int]uint64{ // words by their offset
		0x000:      data, // ES
		vmsaCS:     segment(0xffff, 0x9b, 0xf000),
		vmsaCS + 8: uint64(eip & 0xffff0000), // base
		vmsaSS:     data,
		0x030:      data,                     // DS
		0x040:      data,                     // FS
		0x050:      data,                     // GS
		0x060:      segment(0xffff, 0, 0),    // GDTR
		0x070:      segment(0xffff, 0x82, 0), // LDTR
		0x080:      segment(0xffff, 0, 0),    // IDTR
		vmsaTR:     segment(0xffff, 0x8b, 0),
		0x0d0:      0x1000,               // EFER
		0x148:      0x40,                 // CR4
		0x158:      0x10,                 // CR0
		0x160:      0x400,                // DR7
		0x168:      0xffff0ff0,           // DR6
		0x170:      0x2,                  // RFLAGS
		0x178:      uint64(eip & 0xffff), // RIP
		vmsaPAT:    0x0007040600070406,
		vmsaRDX:    uint64(cpus.signature),
		0x3b0:      uint64(cpus.features), // SEV_FEATURES
		0x3e8:      0x1,                   // XCR0
	}
	switch {
	case cpus.vmm == EC2:
		if eip == bootEIP {
			r[vmsaCS] = segment(0xffff, 0x9a, 0xf000)
		}
		r[vmsaSS] = segment(0xffff, 0x92, 0)
		r[vmsaTR] = segment(0xffff, 0x83, 0)
		r[vmsaRDX] = 0x600
	case cpus.vmm == GCE:
		r[vmsaPAT] = 0x00070106
		r[vmsaRDX] = 0x600
	case fpu:
		r[vmsaMXCSR] = 0x1f80
		r[vmsaFCW] = 0x37f
	}
	v := new(vmsa)
	for at, word := range r {
		le.PutUint64(v[at:], word)
	}
	return v
}
