package measure

import (
	"cmp"
	"crypto/sha512"
	"fmt"
	"slices"

	"cocoroot/initramfs/measure/ovmf"
)

// Input is what a launch digest is computed from.
type Input struct {
	Firmware Firmware
	Table    *HashesTable // nil without a kernel
	CPUs     CPUs         // not for sev
	VMType   VMType       // sev-es
}

// VMType is the kind of virtual machine that QEMU asks KVM for.
type VMType int

const (
	// Legacy is KVM_X86_DEFAULT_VM, set up by KVM_SEV_ES_INIT: what QEMU
	// takes unless told otherwise (sev-guest's legacy-vm-type: before QEMU
	// 9.1 there is no other; since, "auto" means legacy unless guest features
	// are asked for, and machine types up to 9.0 set "on"). It knows no guest
	// features, but for Linux between d1f85fbe836e (6.5) and 5abf6dceb066,
	// where KVM itself turned DebugSwap on.
	Legacy VMType = iota
	// Init2 is KVM_X86_SEV_ES_VM, set up by KVM_SEV_INIT2 (Linux 6.10,
	// QEMU 9.1 with legacy-vm-type=off). Its VMSAs have the floating-point
	// unit's state in them.
	Init2
)

// String returns the type's name as the tool's option has it.
func (t VMType) String() string {
	if t == Init2 {
		return "init2"
	}
	return "legacy"
}

// Digest computes the launch digest for mode sev, sev-es or sev-snp.
//
// SEV measures the firmware, then the table of hashes (AMD SEV API 55766,
// LAUNCH_MEASURE), and SEV-ES the VMSA of each virtual CPU after that. SEV-SNP
// measures pages: the firmware, the sections of its metadata, the VMSAs.
func (in Input) Digest(mode string) (Measurement, error) {
	if err := in.check(mode); err != nil {
		return Measurement{}, err
	}
	m := in.describe(mode)
	if mode == "sev-snp" {
		in.snp(&m)
		return m, nil
	}
	return m, in.sev(&m)
}

func (in Input) check(mode string) error {
	snp, f := mode == "sev-snp", in.Firmware
	if snp {
		if err := f.checkSections(); err != nil {
			return err
		}
	}
	if in.Table != nil {
		if err := f.checkHashes(snp); err != nil {
			return err
		}
	}
	if mode == "sev" {
		return nil
	}
	if f.footer.ResetAddress == 0 {
		return fmt.Errorf("%w: its footer has no SEV-ES reset address; it is not a build for SEV-ES or SEV-SNP", errFirmware)
	}
	return in.CPUs.check(snp)
}

func (in Input) sev(m *Measurement) error {
	f := in.Firmware
	h, err := f.hashed.Clone()
	if err != nil {
		return err
	}
	m.add("firmware", 0, f.base(), uint64(len(f.image)), h.Sum(nil))
	if in.Table != nil {
		h.Write(in.Table.Marshal())
		m.add("hashes_table", 0, uint64(f.footer.Hashes.Base), TableSize, h.Sum(nil))
	}
	if m.bsp == nil {
		return nil
	}
	vmsa := m.bsp
	for range in.CPUs.count {
		h.Write(vmsa[:])
		m.add("vmsa", 0, 0, pageSize, h.Sum(nil))
		vmsa = m.ap
	}
	return nil
}

func (in Input) snp(m *Measurement) {
	l := ledger{result: m}
	l.pages("firmware", in.Firmware.base(), in.Firmware.image)
	sections := in.Firmware.footer.Sections
	if in.CPUs.vmm == EC2 { // has the CPUID pages last, and the others in the order of the metadata
		last := map[ovmf.SectionType]int{ovmf.CPUID: 1}
		sections = slices.SortedStableFunc(slices.Values(sections), func(a, b ovmf.Section) int { return cmp.Compare(last[a.Type], last[b.Type]) })
	}
	for _, s := range sections {
		in.section(&l, s)
	}
	vmsa := sha512.Sum384(m.bsp[:])
	for i := range in.CPUs.count {
		if i == 1 {
			vmsa = sha512.Sum384(m.ap[:])
		}
		l.page(pageVMSA, vmsaAddress, vmsa)
		l.note("vmsa", pageVMSA, vmsaAddress, pageSize)
	}
}

func (in Input) section(l *ledger, s ovmf.Section) {
	kind := pageZero
	switch {
	case s.Type == ovmf.Secrets:
		kind = pageSecrets
	case s.Type == ovmf.CPUID:
		kind = pageCPUID
	case s.Type == ovmf.SecMem && in.CPUs.vmm == GCE:
		kind = pageUnmeasured
	case s.Type == ovmf.KernelHashes && in.Table != nil:
		page := make([]byte, pageSize) // as checkSections demands
		copy(page[in.Firmware.footer.Hashes.Base%pageSize:], in.Table.Marshal())
		l.pages(s.Type.String(), uint64(s.Base), page)
		return
	}
	l.blank(s.Type.String(), kind, uint64(s.Base), uint64(s.Size))
}
