package measure

import (
	"fmt"

	"cocoroot/initramfs/measure/ovmf"
)

// SVSM is the raw image of a Coconut SVSM, which runs below the guest at the
// highest privilege level and starts before the firmware does.
//
// It is the form that Coconut's own QEMU has loaded beside a firmware
// (coconut-svsm/qemu at 0e64fb84, target/i386/sev.c). QEMU proper, since 10.1,
// starts an SVSM from an IGVM file, which says itself what is measured;
// Coconut's igvmmeasure computes that.
type SVSM struct {
	image  []byte
	base   uint64 // guest-physical
	footer ovmf.Firmware
}

// NewSVSM places an SVSM's image below a firmware and below varsSize bytes of
// that firmware's variables (OVMF_VARS.fd), which are not measured.
func NewSVSM(image []byte, f Firmware, varsSize uint64) (SVSM, error) {
	own, err := NewFirmware(image)
	if err != nil {
		return SVSM{}, fmt.Errorf("the SVSM: %w", err)
	}
	if err := own.checkSections(); err != nil {
		return SVSM{}, fmt.Errorf("the SVSM: %w", err)
	}
	footer := own.footer
	if !footer.HasSVSMEntry {
		return SVSM{}, fmt.Errorf("%w: its footer does not say where an SVSM starts", errFirmware)
	}
	below := uint64(len(image))
	if varsSize%pageSize != 0 || varsSize > f.base() || varsSize+below > f.base() {
		return SVSM{}, fmt.Errorf("%w: %d bytes of variables are not whole pages, or leave no room for the SVSM", errFirmware, varsSize)
	}
	s := SVSM{image, f.base() - varsSize - below, footer}
	for _, section := range footer.Sections {
		if uint64(section.Base)+uint64(section.Size) > s.base {
			return SVSM{}, fmt.Errorf("%w: the SVSM's metadata section at %#x reaches into the SVSM at %#x", errFirmware, section.Base, s.base)
		}
	}
	return s, nil
}

// snpWithSVSM returns the digest of a SEV-SNP launch with an SVSM: firmware,
// SVSM, the sections of the SVSM's metadata, and each virtual CPU's VMSA,
// which starts in the SVSM. The firmware's own metadata counts for nothing
// there, and so a kernel's hashes have no place.
func snpWithSVSM(f Firmware, s SVSM, cpus CPUs) (Result, error) {
	if err := cpus.check(true); err != nil {
		return Result{}, err
	}
	var r Result
	r.BSP = protectedModeVMSA(uint32(s.base)+s.footer.SVSMEntry, cpus)
	if cpus.count > 1 {
		r.AP = r.BSP
	}
	l := ledger{result: &r}
	l.pages("firmware", f.base(), f.image)
	l.pages("svsm", s.base, s.image)
	for _, section := range s.footer.Sections {
		l.section(section, ovmf.Area{}, nil)
	}
	l.cpus(cpus)
	return r, nil
}
