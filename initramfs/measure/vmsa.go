package measure

import "encoding/binary"

var le = binary.LittleEndian

// VMSA is the page that holds the registers of one virtual CPU at its start
// (AMD64 Architecture Programmer's Manual volume 2, table B-4; all fields are
// little-endian). Bytes that are not set here are zero.
type VMSA [pageSize]byte

// Offsets of fields in bytes.
const (
	vmsaES       = 0x000
	vmsaCS       = 0x010
	vmsaSS       = 0x020
	vmsaDS       = 0x030
	vmsaFS       = 0x040
	vmsaGS       = 0x050
	vmsaGDTR     = 0x060
	vmsaLDTR     = 0x070
	vmsaIDTR     = 0x080
	vmsaTR       = 0x090
	vmsaEFER     = 0x0d0
	vmsaCR4      = 0x148
	vmsaCR0      = 0x158
	vmsaDR7      = 0x160
	vmsaDR6      = 0x168
	vmsaRFLAGS   = 0x170
	vmsaRIP      = 0x178
	vmsaPAT      = 0x268
	vmsaRDX      = 0x310
	vmsaFeatures = 0x3b0
	vmsaXCR0     = 0x3e8
	vmsaMXCSR    = 0x408
	vmsaFCW      = 0x410
)

// bootEIP is where the boot processor starts: the reset vector.
const bootEIP = 0xfffffff0

// segment is a segment register: u16 selector, u16 attributes, u32 limit, u64
// base.
type segment struct {
	selector, attributes uint16
	limit                uint32
	base                 uint64
}

func (v *VMSA) segment(at int, s segment) {
	le.PutUint16(v[at:], s.selector)
	le.PutUint16(v[at+2:], s.attributes)
	le.PutUint32(v[at+4:], s.limit)
	le.PutUint64(v[at+8:], s.base)
}

func (v *VMSA) put(at int, value uint64) { le.PutUint64(v[at:], value) }

// newVMSA sets what is the same at every start under KVM: the processor's
// state after reset (APM volume 2, table 14-1), with EFER.SVME and CR4.MCE,
// which KVM sets, and in RDX the signature.
func newVMSA(cpus CPUs) *VMSA {
	v := new(VMSA)
	v.segment(vmsaGS, segment{0, 0x93, 0xffff, 0})
	v.segment(vmsaGDTR, segment{0, 0, 0xffff, 0})
	v.segment(vmsaLDTR, segment{0, 0x82, 0xffff, 0})
	v.segment(vmsaIDTR, segment{0, 0, 0xffff, 0})
	v.segment(vmsaTR, segment{0, 0x8b, 0xffff, 0})
	v.put(vmsaEFER, 0x1000)
	v.put(vmsaCR4, 0x40)
	v.put(vmsaCR0, 0x10)
	v.put(vmsaDR7, 0x400)
	v.put(vmsaDR6, 0xffff0ff0)
	v.put(vmsaRFLAGS, 0x2)
	v.put(vmsaPAT, 0x0007040600070406)
	v.put(vmsaRDX, uint64(cpus.signature))
	v.put(vmsaFeatures, uint64(cpus.features))
	v.put(vmsaXCR0, 0x1)
	return v
}

// realModeVMSA is a processor that starts in real mode at eip. With fpu it
// has the state of the floating-point unit in it, which KVM leaves out for a
// VM of the legacy type.
func realModeVMSA(eip uint32, cpus CPUs, fpu bool) *VMSA {
	v := newVMSA(cpus)
	for _, at := range []int{vmsaES, vmsaSS, vmsaDS, vmsaFS} {
		v.segment(at, segment{0, 0x93, 0xffff, 0})
	}
	v.segment(vmsaCS, segment{0xf000, 0x9b, 0xffff, uint64(eip & 0xffff0000)})
	v.put(vmsaRIP, uint64(eip&0xffff))
	if fpu && cpus.vmm == QEMU {
		le.PutUint32(v[vmsaMXCSR:], 0x1f80)
		le.PutUint16(v[vmsaFCW:], 0x37f)
	}
	v.foreign(cpus.vmm, eip)
	return v
}

// foreign sets what a VMM other than QEMU starts with (virtee/sev-snp-measure
// vmsa.py at 8f2b337): no floating-point state, and RDX as the APM has it
// after reset, whatever the processor.
func (v *VMSA) foreign(vmm VMM, eip uint32) {
	switch vmm {
	case EC2:
		if eip == bootEIP {
			le.PutUint16(v[vmsaCS+2:], 0x9a)
		}
		le.PutUint16(v[vmsaSS+2:], 0x92)
		le.PutUint16(v[vmsaTR+2:], 0x83)
		v.put(vmsaRDX, 0x600)
	case GCE:
		v.put(vmsaPAT, 0x00070106)
		v.put(vmsaRDX, 0x600)
	}
}

// protectedModeVMSA is a processor that starts in flat 32-bit mode at eip, as
// the QEMU of the Coconut SVSM does it. (Its VMSAs have no x87 control word:
// the vectors, taken from hardware, show it.)
func protectedModeVMSA(eip uint32, cpus CPUs) *VMSA {
	v := newVMSA(cpus)
	for _, at := range []int{vmsaES, vmsaSS, vmsaDS, vmsaFS} {
		v.segment(at, segment{16, 0xc93, 0xffffffff, 0})
	}
	v.segment(vmsaCS, segment{8, 0xc9b, 0xffffffff, 0})
	v.put(vmsaCR0, 0x11)
	v.put(vmsaRIP, uint64(eip))
	le.PutUint32(v[vmsaMXCSR:], 0x1f80)
	return v
}
