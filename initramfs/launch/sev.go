package launch

import (
	"errors"
	"fmt"
	"strconv"

	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/release/session"
)

// ErrQEMU is returned for a QEMU that is too old for what is asked of it.
var ErrQEMU = errors.New("this QEMU is too old")

// Mode is a kind of confidential guest.
type Mode int

// The modes, by the names that ParseMode reads: sev, sev-es, sev-snp.
const (
	ModeSEV Mode = iota + 1
	ModeES
	ModeSNP
)

// ParseMode reads the name of a mode.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{ModeSEV, ModeES, ModeSNP} {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%w: there is no mode %.32q; it is sev, sev-es or sev-snp", ErrConfig, s)
}

// String returns the mode's name.
func (m Mode) String() string {
	switch m {
	case ModeSEV:
		return "sev"
	case ModeES:
		return "sev-es"
	case ModeSNP:
		return "sev-snp"
	}
	return "Mode(" + strconv.Itoa(int(m)) + ")"
}

// The bits of a SEV-SNP guest's policy that matter here (SEV-SNP firmware ABI
// 56860, table "Guest Policy").
const (
	snpSMT   = 1 << 16 // may run on a host with simultaneous multithreading
	snpOne   = 1 << 17 // reserved, always 1
	snpDebug = 1 << 19 // the host may decrypt the guest's memory by asking
)

// Policy returns the policy that a guest of this mode has by default. For SEV
// and SEV-ES it forbids debugging and key sharing; for SEV-SNP it is QEMU's.
func (m Mode) Policy() uint64 {
	switch m {
	case ModeSEV:
		return uint64(session.NoDebug | session.NoKeySharing)
	case ModeES:
		return uint64(session.Strict)
	}
	return snpSMT | snpOne
}

// Weak reports whether the policy allows the host more than Mode.Policy does.
func (s SEV) Weak() bool {
	if s.Mode == ModeSNP {
		return s.Policy&snpDebug != 0
	}
	return s.Policy&s.Mode.Policy() != s.Mode.Policy()
}

// SEV is what a launch on SEV hardware needs beyond a simulated one.
type SEV struct {
	Mode   Mode
	Policy uint64 // see Mode.Policy and package session
	// CBit is the page table bit that marks encrypted memory, and
	// ReducedPhysBits the number of address bits that it costs; QEMU refuses
	// what is not the host's. Capabilities asks for them.
	CBit, ReducedPhysBits int
	// CPUType is QEMU's name of the virtual CPU, such as EPYC-Milan, or host.
	// SEV-ES and SEV-SNP measure it.
	CPUType string
	// VMType is for SEV-ES, which measures it too.
	VMType measure.VMType
	// Session and DHCert are the files of cocoroot secret session; SEV-SNP
	// has none, and without them a guest can be given no secret.
	Session, DHCert string
}

// TakesSecret reports whether the guest waits for a secret before its first
// instruction.
func (s SEV) TakesSecret() bool { return s.Mode != ModeSNP && s.Session != "" }

func (s SEV) check() error {
	if _, err := ParseMode(s.Mode.String()); err != nil {
		return err
	}
	switch {
	case s.CBit < 32 || s.CBit > 63:
		return fmt.Errorf("%w: bit %d of an address is not the C-bit", ErrConfig, s.CBit)
	case s.ReducedPhysBits < 1 || s.ReducedPhysBits > 63:
		return fmt.Errorf("%w: memory encryption cannot take %d bits of an address", ErrConfig, s.ReducedPhysBits)
	case s.VMType != measure.Legacy && s.Mode != ModeES:
		return fmt.Errorf("%w: the VM type is for sev-es", ErrConfig)
	case (s.Session == "") != (s.DHCert == ""):
		return fmt.Errorf("%w: session and Diffie-Hellman certificate belong together", ErrConfig)
	case s.Session != "" && s.Mode == ModeSNP:
		return fmt.Errorf("%w: sev-snp has no session", ErrConfig)
	}
	if s.CPUType != "host" {
		if _, err := measure.LookupCPUType(s.CPUType); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	return s.checkPolicy()
}

func (s SEV) checkPolicy() error {
	es := s.Policy&uint64(session.EncryptedState) != 0
	switch {
	case s.Mode == ModeSNP && s.Policy&snpOne == 0:
		return fmt.Errorf("%w: bit 17 of a sev-snp policy is always 1, and %#x lacks it", ErrConfig, s.Policy)
	case s.Mode == ModeSNP:
		return nil
	case s.Policy>>32 != 0:
		return fmt.Errorf("%w: the policy %#x has more than 32 bits", ErrConfig, s.Policy)
	case es != (s.Mode == ModeES):
		return fmt.Errorf("%w: the policy %#x is not for %s: bit 2 says whether the guest's registers are encrypted", ErrConfig, s.Policy, s.Mode)
	}
	return nil
}

// CheckVersion returns ErrQEMU for a release that lacks an option. Before 7.2 not every one
// measures firmware that is passed with -bios; sev-snp-guest and
// legacy-vm-type came with 9.1.
func (s SEV) CheckVersion(v Version) error {
	switch {
	case !v.AtLeast(7, 2):
		return fmt.Errorf("%w: it is %d.%d; %s needs 7.2", ErrQEMU, v.Major, v.Minor, s.Mode)
	case !v.AtLeast(9, 1) && (s.Mode == ModeSNP || s.VMType == measure.Init2):
		return fmt.Errorf("%w: it is %d.%d; sev-snp, and the VM type init2, need 9.1", ErrQEMU, v.Major, v.Minor)
	}
	return nil
}

// object returns the value of -object for the guest.
func (s SEV) object(v Version) string {
	kind := "sev-guest"
	if s.Mode == ModeSNP {
		kind = "sev-snp-guest"
	}
	o := fmt.Sprintf("%s,id=sev0,cbitpos=%d,reduced-phys-bits=%d,policy=%#x,kernel-hashes=on", kind, s.CBit, s.ReducedPhysBits, s.Policy)
	if word := s.LegacyVMType(v); word != "" {
		o += ",legacy-vm-type=" + word
	}
	if s.Session != "" {
		o += ",session-file=" + escape(s.Session) + ",dh-cert-file=" + escape(s.DHCert)
	}
	return o
}

// LegacyVMType returns the value of sev-guest's option of this name, which
// says what the measurement counts on, whatever default a release has; empty
// where there is no such option.
func (s SEV) LegacyVMType(v Version) string {
	switch {
	case s.Mode == ModeSNP || !v.AtLeast(9, 1):
		return ""
	case s.VMType == measure.Init2:
		return "off"
	}
	return "on"
}
