package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure"
)

// What memory encryption takes on Rome and later; Naples has the C-bit at 47.
const (
	usualCBit            = 51
	usualReducedPhysBits = 1
)

// sevOptions are the options about SEV hardware, of launch and of template.
type sevOptions struct {
	policy, vcpuType, vmType string
	session, dhCert          string
	cbit, reducedPhysBits    int
	unchecked                bool
	given                    func(name string) bool
}

func (o *sevOptions) register(c *cobra.Command) {
	flags := c.Flags()
	o.given = flags.Changed
	flags.StringVar(&o.policy, "policy", "", "the guest's policy (default: 0x3 for sev and 0x7 for sev-es, which forbid debugging and key sharing; 0x30000 for sev-snp)")
	flags.StringVar(&o.vcpuType, "vcpu-type", "", "QEMU's -cpu, such as EPYC-Milan, or host; as in cocoroot measure (sev: default EPYC)")
	flags.StringVar(&o.vmType, "vm-type", "legacy", "sev-es: legacy or init2, as in cocoroot measure")
	flags.StringVar(&o.session, "session-file", "", "sev, sev-es: NAME_session.b64 that cocoroot secret session wrote")
	flags.StringVar(&o.dhCert, "dh-cert-file", "", "sev, sev-es: NAME_godh.b64 that cocoroot secret session wrote")
	choices(c, "vm-type", "legacy", "init2")
	flags.IntVar(&o.cbit, "cbitpos", usualCBit, "position of the C-bit (launch: default as QEMU says)")
	flags.IntVar(&o.reducedPhysBits, "reduced-phys-bits", usualReducedPhysBits, "address bits that memory encryption takes (launch: default as QEMU says)")
	flags.BoolVar(&o.unchecked, "firmware-unchecked", false, "take firmware that is not cocoroot's own: it may let the host in before the measured kernel runs")
}

// names are the options that register makes.
func (o *sevOptions) names() []string {
	return []string{"policy", "vcpu-type", "vm-type", "session-file", "dh-cert-file", "cbitpos", "reduced-phys-bits", "firmware-unchecked"}
}

// read returns what the options say for a guest of the mode.
func (o *sevOptions) read(mode launch.Mode) (launch.SEV, error) {
	s := launch.SEV{
		Mode: mode, Policy: mode.Policy(), CBit: o.cbit, ReducedPhysBits: o.reducedPhysBits,
		CPUType: o.vcpuType, Session: o.session, DHCert: o.dhCert,
	}
	var err error
	if o.policy != "" {
		if s.Policy, err = strconv.ParseUint(o.policy, 0, 64); err != nil {
			return s, fault.Usagef("--policy: %.32q is not a number such as %#x", o.policy, mode.Policy())
		}
	}
	if o.vcpuType == "" {
		s.CPUType = "EPYC" // for sev, which measures none; every processor with SEV has what it has
	}
	switch o.vmType {
	case "legacy":
	case "init2":
		s.VMType = measure.Init2
	default:
		return s, fault.Usagef("there is no VM type %q; it is legacy or init2", o.vmType)
	}
	return s, nil
}

// missing names the options without which a guest of the mode could be given no
// secret, or could not be measured.
func (o *sevOptions) missing(mode launch.Mode) (names []string) {
	if mode != launch.ModeSNP && o.session == "" {
		names = append(names, "--session-file")
	}
	if mode != launch.ModeSNP && o.dhCert == "" {
		names = append(names, "--dh-cert-file")
	}
	if mode != launch.ModeSEV && o.vcpuType == "" {
		names = append(names, "--vcpu-type")
	}
	return names
}
