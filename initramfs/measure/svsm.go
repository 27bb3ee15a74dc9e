package measure

import "fmt"

// SVSM is the raw image of a Coconut SVSM, which runs below the guest at the
// highest privilege level and starts before the firmware does.
//
// It is the form that Coconut's own QEMU has loaded beside a firmware
// (coconut-svsm/qemu at 0e64fb84, target/i386/sev.c). QEMU proper, since 10.1,
// starts an SVSM from an IGVM file, which says itself what is measured;
// Coconut's igvmmeasure computes that.
type SVSM struct {
	own  Firmware // its image ends in a footer as a firmware's does
	base uint64   // guest-physical
}

// NewSVSM places an SVSM's image below a firmware and below varsSize bytes of
// that firmware's variables (OVMF_VARS.fd), which are not measured.
func NewSVSM(image []byte, f Firmware, varsSize uint64) (SVSM, error) {
	own, err := NewFirmware(image)
	if err == nil {
		err = own.checkSections()
	}
	if err != nil {
		return SVSM{}, fmt.Errorf("the SVSM: %w", err)
	}
	if !own.footer.HasSVSMEntry {
		return SVSM{}, fmt.Errorf("%w: its footer does not say where an SVSM starts", errFirmware)
	}
	below := uint64(len(image))
	if varsSize%pageSize != 0 || varsSize > f.base() || varsSize+below > f.base() {
		return SVSM{}, fmt.Errorf("%w: %d bytes of variables are not whole pages, or leave no room for the SVSM", errFirmware, varsSize)
	}
	s := SVSM{own, f.base() - varsSize - below}
	for _, section := range own.footer.Sections {
		if uint64(section.Base)+uint64(section.Size) > s.base {
			return SVSM{}, fmt.Errorf("%w: the SVSM's metadata section at %#x reaches into the SVSM at %#x", errFirmware, section.Base, s.base)
		}
	}
	return s, nil
}
