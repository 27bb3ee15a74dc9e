package measure

import (
	"hash"

	"cocoroot/initramfs/measure/ovmf"
)

// Step is one thing that the launch measured, and the digest after it.
type Step struct {
	// Name is firmware, svsm, hashes_table (SEV and SEV-ES), vmsa, or the
	// type of a section: sec_mem, secrets, cpuid, svsm_caa, kernel_hashes.
	Name     string   `json:"name"`
	PageType pageType `json:"page_type,omitempty"` // SEV-SNP's; 0 in other modes
	Address  number   `json:"address,omitempty"`   // guest-physical; 0 for a VMSA of SEV-ES, which has none
	Size     uint64   `json:"size"`                // bytes
	Digest   digits   `json:"digest"`              // the launch digest so far
}

// Result is a launch digest and how it came about.
type Result struct {
	// Digest is the launch digest: SHA-256 for SEV and SEV-ES, SHA-384 for
	// SEV-SNP.
	Digest []byte
	Steps  []Step // in the order of the measurement; the last one's digest is Digest
	// BSP is the VMSA of the boot processor, AP that of each other one; nil
	// where the launch measures none.
	BSP, AP *VMSA
}

func (r *Result) add(name string, t pageType, address, size uint64, digest []byte) {
	r.Digest = digest
	r.Steps = append(r.Steps, Step{name, t, number(address), size, digest})
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

// SEV returns the digest of a SEV launch: SHA-256 of the firmware, then of
// the table of hashes, which is nil without a kernel. SEV measures no
// virtual CPU. (AMD SEV API 55766, LAUNCH_MEASURE.)
func SEV(f Firmware, table *HashesTable) (Result, error) {
	var r Result
	_, err := r.sev(f, table)
	return r, err
}

// sev measures what SEV and SEV-ES have in common.
func (r *Result) sev(f Firmware, table *HashesTable) (hash.Hash, error) {
	if table != nil {
		if err := f.checkHashes(); err != nil {
			return nil, err
		}
	}
	h, err := f.hashed.Clone()
	if err != nil {
		return nil, err
	}
	r.add("firmware", 0, f.base(), uint64(len(f.image)), h.Sum(nil))
	if table != nil {
		h.Write(table.Marshal())
		r.add("hashes_table", 0, uint64(f.footer.Hashes.Base), TableSize, h.Sum(nil))
	}
	return h, nil
}

// SEVES returns the digest of a SEV-ES launch: what SEV measures, then each
// virtual CPU's VMSA.
func SEVES(f Firmware, table *HashesTable, cpus CPUs, t VMType) (Result, error) {
	if err := cpus.check(false); err != nil {
		return Result{}, err
	}
	var r Result
	if err := r.vmsas(f, cpus, t == Init2); err != nil {
		return Result{}, err
	}
	h, err := r.sev(f, table)
	if err != nil {
		return Result{}, err
	}
	for i := range cpus.count {
		h.Write(r.vmsa(i)[:])
		r.add("vmsa", 0, 0, pageSize, h.Sum(nil))
	}
	return r, nil
}

// vmsas sets the VMSAs of a guest that starts in its firmware.
func (r *Result) vmsas(f Firmware, cpus CPUs, fpu bool) error {
	reset, err := f.resetAddress()
	if err != nil {
		return err
	}
	r.BSP = realModeVMSA(bootEIP, cpus, fpu)
	if cpus.count > 1 {
		r.AP = realModeVMSA(reset, cpus, fpu)
	}
	return nil
}

// vmsa returns the VMSA of a CPU by its number.
func (r *Result) vmsa(i int) *VMSA {
	if i == 0 {
		return r.BSP
	}
	return r.AP
}

// SNP returns the digest of a SEV-SNP launch: firmware, the sections of its
// metadata in their order, and each virtual CPU's VMSA.
func SNP(f Firmware, table *HashesTable, cpus CPUs) (Result, error) {
	if err := f.checkSections(); err != nil {
		return Result{}, err
	}
	if table != nil {
		if err := f.checkHashesSection(); err != nil {
			return Result{}, err
		}
	}
	if err := cpus.check(true); err != nil {
		return Result{}, err
	}
	var r Result
	if err := r.vmsas(f, cpus, true); err != nil {
		return Result{}, err
	}
	l := ledger{result: &r}
	l.pages("firmware", f.base(), f.image)
	l.sections(f, table, cpus.vmm)
	l.cpus(cpus)
	return r, nil
}

// sections measures the sections of a firmware in the order of the VMM: that of
// the metadata, and EC2 has the CPUID pages last.
func (l *ledger) sections(f Firmware, table *HashesTable, vmm VMM) {
	var last []ovmf.Section
	for _, s := range f.footer.Sections {
		switch {
		case vmm == EC2 && s.Type == ovmf.CPUID:
			last = append(last, s)
		case vmm == GCE && s.Type == ovmf.SecMem:
			l.blank(s.Type.String(), pageUnmeasured, uint64(s.Base), uint64(s.Size))
		default:
			l.section(s, f.footer.Hashes, table)
		}
	}
	for _, s := range last {
		l.section(s, f.footer.Hashes, table)
	}
}

// section measures one section of the metadata as QEMU does.
func (l *ledger) section(s ovmf.Section, area ovmf.Area, table *HashesTable) {
	name, base, size := s.Type.String(), uint64(s.Base), uint64(s.Size)
	switch {
	case s.Type == ovmf.Secrets:
		l.blank(name, pageSecrets, base, size)
	case s.Type == ovmf.CPUID:
		l.blank(name, pageCPUID, base, size)
	case s.Type == ovmf.KernelHashes && table != nil:
		page := make([]byte, pageSize) // as checkSections demands
		copy(page[area.Base%pageSize:], table.Marshal())
		l.pages(name, base, page)
	default:
		l.blank(name, pageZero, base, size)
	}
}
