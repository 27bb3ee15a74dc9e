package measure

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxCPUs is the largest number of virtual CPUs that is measured: that of
// QEMU's q35 machine, and of KVM.
const MaxCPUs = 4096

// ErrCPUs is returned for virtual CPUs that no guest can have.
var ErrCPUs = errors.New("not the virtual CPUs of a guest")

// CPUs are the virtual CPUs of a guest, as far as SEV-ES and SEV-SNP measure
// them. The zero value stands for no CPUs.
type CPUs struct {
	count     int
	signature Signature
	features  Features
	vmm       VMM
}

// VMM is the program that starts the guest: each sets the registers in its own
// way, and has its own order and types of the firmware's pages (virtee/sev-snp-measure vmsa.py and
// guest.py at 8f2b337).
type VMM string

// The monitors whose registers are known.
const (
	QEMU VMM = "qemu" // with KVM
	EC2  VMM = "ec2"  // Amazon's
	GCE  VMM = "gce"  // Google's
)

// ParseVMM reads qemu, ec2 or gce.
func ParseVMM(s string) (VMM, error) {
	if v := VMM(s); v == QEMU || v == EC2 || v == GCE {
		return v, nil
	}
	return "", fmt.Errorf("%w: the registers of the VMM %.32q are not known; known are qemu, ec2 and gce", ErrCPUs, s)
}

// Under returns the same CPUs as v starts them. Without it, QEMU does.
func (c CPUs) Under(v VMM) CPUs {
	c.vmm = v
	return c
}

// NewCPUs describes count virtual CPUs that are all alike. The error is ErrCPUs
// for a count that is not from 1 to MaxCPUs, and for the signature 0.
func NewCPUs(count int, s Signature, f Features) (CPUs, error) {
	if count < 1 || count > MaxCPUs {
		return CPUs{}, fmt.Errorf("%w: %d of them; a guest has 1 to %d", ErrCPUs, count, MaxCPUs)
	}
	if s == 0 {
		return CPUs{}, fmt.Errorf("%w: no processor has the signature 0", ErrCPUs)
	}
	return CPUs{count: count, signature: s, features: f}, nil
}

// check refuses what is not a guest's: SEV-SNP's, or SEV-ES's.
func (c CPUs) check(snp bool) error {
	switch active := c.features&SNPActive != 0; {
	case c.count == 0:
		return fmt.Errorf("%w: there are none", ErrCPUs)
	case active && !snp:
		return fmt.Errorf("%w: the guest feature 0x1 (SNPActive) is only for SEV-SNP", ErrCPUs)
	case snp && !active:
		return fmt.Errorf("%w: without the guest feature 0x1 (SNPActive) there is no SEV-SNP", ErrCPUs)
	}
	return nil
}

// Signature is the family, model and stepping of a processor as CPUID
// Fn0000_0001_EAX has them (AMD CPUID Specification 25481): stepping in bits
// 3:0, model in 19:16 and 7:4, family in 27:20 and 11:8. A virtual CPU finds
// it in RDX at its start, so the launch measures it.
type Signature uint32

// signatureReserved are the bits that no AMD processor sets.
const signatureReserved = 0xf000f000

func newSignature(family, model, stepping uint32) Signature {
	low, high := family, uint32(0)
	if family > 0xf {
		low, high = 0xf, family-0xf
	}
	return Signature(high<<20 | model>>4<<16 | low<<8 | model&0xf<<4 | stepping)
}

// ParseSignature reads a number such as 0x800f12, or family, model and
// stepping in decimal as /proc/cpuinfo shows them, such as 23/1/2.
func ParseSignature(s string) (Signature, error) {
	if strings.Contains(s, "/") {
		return parseFamily(s)
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n == 0 || n&signatureReserved != 0 {
		return 0, fmt.Errorf("%w: %.32q is not a processor's signature; it is a number such as 0x800f12, or FAMILY/MODEL/STEPPING", ErrCPUs, s)
	}
	return Signature(n), nil
}

func parseFamily(s string) (Signature, error) {
	bounds := [...]uint64{0xf + 0xff, 0xff, 0xf} // what the fields can hold
	var n [len(bounds)]uint32
	parts := strings.Split(s, "/")
	ok := len(parts) == len(bounds)
	for i := 0; ok && i < len(bounds); i++ {
		v, err := strconv.ParseUint(parts[i], 10, 32)
		ok = err == nil && v <= bounds[i]
		n[i] = uint32(v)
	}
	if !ok || n[0] == 0 {
		return 0, fmt.Errorf("%w: %.32q is not of the form FAMILY/MODEL/STEPPING", ErrCPUs, s)
	}
	return newSignature(n[0], n[1], n[2]), nil
}

// cpuTypes returns QEMU's models of AMD processors with SEV
// (target/i386/cpu.c, builtin_x86_defs of 11.1), in the order in which AMD made them,
// each as NAME, NAME-v1 and so on. A version never changes the signature.
func cpuTypes() (names []string, signatures map[string]Signature) {
	signatures = make(map[string]Signature)
	for _, m := range []struct {
		name      string
		versions  int
		signature Signature
	}{
		{"EPYC", 5, newSignature(23, 1, 2)},
		{"EPYC-IBPB", 0, newSignature(23, 1, 2)},
		{"EPYC-Rome", 5, newSignature(23, 49, 0)},
		{"EPYC-Milan", 4, newSignature(25, 1, 1)},
		{"EPYC-Genoa", 3, newSignature(25, 17, 0)},
		{"EPYC-Turin", 2, newSignature(26, 0, 0)},
	} {
		name := m.name
		for v := 1; v <= m.versions+1; v++ {
			names = append(names, name)
			signatures[name] = m.signature
			name = fmt.Sprintf("%s-v%d", m.name, v)
		}
	}
	return names, signatures
}

// LookupCPUType returns the signature of a virtual CPU by QEMU's name of its
// type (-cpu NAME). The error for another name is ErrCPUs and lists the known
// ones.
func LookupCPUType(name string) (Signature, error) {
	names, signatures := cpuTypes()
	if s, ok := signatures[name]; ok {
		return s, nil
	}
	if name == "host" || name == "max" {
		return 0, fmt.Errorf("%w: the type %q is a different one on each host; give its signature instead", ErrCPUs, name)
	}
	return 0, fmt.Errorf("%w: the type %.32q is not known; known are %s", ErrCPUs, name, strings.Join(names, ", "))
}

// Features are the SEV features of a guest (APM volume 2, table B-4,
// SEV_FEATURES). The launch measures them in each VMSA.
type Features uint64

const (
	// SNPActive is set in every SEV-SNP guest, and in no other.
	SNPActive Features = 1 << 0
	// featuresKnown are the features that are defined: bits 0 to 16 but for
	// 11 and 13, and bit 21.
	featuresKnown Features = 0x1ffff&^(1<<11|1<<13) | 1<<21
)

// ParseFeatures reads a number such as 0x21 and refuses bits that are not
// defined.
func ParseFeatures(s string) (Features, error) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the guest features %.32q are not a number such as 0x21", ErrCPUs, s)
	}
	if unknown := Features(n) &^ featuresKnown; unknown != 0 {
		return 0, fmt.Errorf("%w: the bits %#x of the guest features %s are not defined", ErrCPUs, uint64(unknown), s)
	}
	return Features(n), nil
}
