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

// Step is one thing that the launch measured, and the digest after it.
type Step struct {
	// Name is firmware, hashes_table (SEV and SEV-ES), vmsa, or the
	// type of a section: sec_mem, secrets, cpuid, svsm_caa, kernel_hashes.
	Name     string   `json:"name"`
	PageType pageType `json:"page_type,omitempty"` // SEV-SNP's; 0 in other modes
	Address  number   `json:"address,omitempty"`   // guest-physical; 0 for a VMSA of SEV-ES, which has none
	Size     uint64   `json:"size"`                // bytes
	Digest   digits   `json:"digest"`              // the launch digest so far
}

// Result is a launch digest, and the steps of the measurement.
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

// Digest computes the launch digest for mode sev, sev-es or sev-snp.
//
// SEV measures the firmware, then the table of hashes (AMD SEV API 55766,
// LAUNCH_MEASURE), and SEV-ES the VMSA of each virtual CPU after that. SEV-SNP
// measures pages: the firmware, the sections of its metadata, the VMSAs.
func (in Input) Digest(mode string) (Result, error) {
	if err := in.check(mode); err != nil {
		return Result{}, err
	}
	var r Result
	if mode != "sev" {
		in.vmsas(&r, mode == "sev-snp" || in.VMType == Init2)
	}
	if mode == "sev-snp" {
		in.snp(&r)
		return r, nil
	}
	return r, in.sev(&r)
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

// vmsas sets the VMSAs: the boot processor starts at the reset vector and the
// others where the firmware says.
func (in Input) vmsas(r *Result, fpu bool) {
	r.BSP = newVMSA(bootEIP, in.CPUs, fpu)
	if in.CPUs.count > 1 {
		r.AP = newVMSA(in.Firmware.footer.ResetAddress, in.CPUs, fpu)
	}
}

func (in Input) sev(r *Result) error {
	f := in.Firmware
	h, err := f.hashed.Clone()
	if err != nil {
		return err
	}
	r.add("firmware", 0, f.base(), uint64(len(f.image)), h.Sum(nil))
	if in.Table != nil {
		h.Write(in.Table.Marshal())
		r.add("hashes_table", 0, uint64(f.footer.Hashes.Base), TableSize, h.Sum(nil))
	}
	if r.BSP == nil {
		return nil
	}
	vmsa := r.BSP
	for range in.CPUs.count {
		h.Write(vmsa[:])
		r.add("vmsa", 0, 0, pageSize, h.Sum(nil))
		vmsa = r.AP
	}
	return nil
}

func (in Input) snp(r *Result) {
	l := ledger{result: r}
	l.pages("firmware", in.Firmware.base(), in.Firmware.image)
	sections := in.Firmware.footer.Sections
	if in.CPUs.vmm == EC2 { // has the CPUID pages last, and the others in the order of the metadata
		last := map[ovmf.SectionType]int{ovmf.CPUID: 1}
		sections = slices.SortedStableFunc(slices.Values(sections), func(a, b ovmf.Section) int { return cmp.Compare(last[a.Type], last[b.Type]) })
	}
	for _, s := range sections {
		in.section(&l, s)
	}
	vmsa := sha512.Sum384(r.BSP[:])
	for i := range in.CPUs.count {
		if i == 1 {
			vmsa = sha512.Sum384(r.AP[:])
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
