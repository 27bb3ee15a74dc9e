package launch

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/release/session"
	"cocoroot/unlock/policy"
)

// ErrQEMU is returned for a QEMU that is too old for what is asked of it.
var ErrQEMU = fault.Hintf(errors.New("this QEMU is too old"), "--qemu names another one")

// Mode is a kind of confidential guest, by its name.
type Mode string

// The modes.
const (
	ModeSEV Mode = "sev"
	ModeES  Mode = "sev-es"
	ModeSNP Mode = "sev-snp"
)

// Modes returns the names of all modes.
func Modes() []string { return []string{string(ModeSEV), string(ModeES), string(ModeSNP)} }

// ParseMode reads the name of a mode.
func ParseMode(s string) (Mode, error) {
	if !slices.Contains(Modes(), s) {
		return "", fmt.Errorf("there is no mode %.32q; it is sev, sev-es or sev-snp", s)
	}
	return Mode(s), nil
}

// The bits of an SEV-SNP guest's policy that matter here (SEV-SNP firmware ABI
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
	// CBit is the page table bit that marks encrypted memory; QEMU refuses
	// what is not the host's. ReducedPhysBits is the number of address bits
	// that it costs the guest, of which QEMU wants one at least.
	CBit, ReducedPhysBits int
	// CPUType is QEMU's name of the virtual CPU, such as EPYC-Milan, or host.
	// SEV-ES and SEV-SNP measure it.
	CPUType string
	// VMType is for SEV-ES, which measures it too.
	VMType measure.VMType
	// Session and DHCert are the files of cocoroot secret session; SEV-SNP
	// has none, and without them a guest can be given no secret.
	Session, DHCert string
	// HostData and ID are for SEV-SNP. The host's data stand in the guest's
	// reports, where the owner may demand them; all zeros is none.
	HostData [32]byte
	ID       *ID
}

// TakesSecret reports whether the guest waits for a secret before its first
// instruction.
func (s SEV) TakesSecret() bool { return s.Mode != ModeSNP && s.Session != "" }

func (s SEV) check() error {
	if _, err := ParseMode(string(s.Mode)); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
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
	case s.snpObject() != "" && s.Mode != ModeSNP:
		return fmt.Errorf("%w: host data, and an ID block, are for sev-snp", ErrConfig)
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

// object returns the value of -object for the guest. From 9.1 on it says which
// VM type the measurement counts on, whatever default a release has.
func (s SEV) object(v Version) string {
	kind := "sev-guest"
	if s.Mode == ModeSNP {
		kind = "sev-snp-guest"
	}
	o := fmt.Sprintf("%s,id=sev0,cbitpos=%d,reduced-phys-bits=%d,policy=%#x,kernel-hashes=on", kind, s.CBit, s.ReducedPhysBits, s.Policy)
	switch {
	case s.Mode == ModeSNP || !v.AtLeast(9, 1):
	case s.VMType == measure.Init2:
		o += ",legacy-vm-type=off"
	default:
		o += ",legacy-vm-type=on"
	}
	if s.Session != "" {
		o += ",session-file=" + escape(s.Session) + ",dh-cert-file=" + escape(s.DHCert)
	}
	return o + s.snpObject()
}

// ID is an owner's signature over what may be launched under his name: the
// processor refuses another measurement or policy, and reports have the digest of
// the key. ParseID makes it.
type ID struct {
	Block, Auth string // in base64, as QEMU and libvirt take them
	AuthorKey   bool   // Auth has a second key, which signed the first one
}

// Sizes in bytes (SEV-SNP firmware ABI 56860, "ID Block" and "ID Authentication
// Information Structure"), and where in the second one AUTHOR_KEY is.
const (
	idBlockSize            = 96
	idAuthSize             = 4096
	authorKey, authorKeyTo = 0x880, 0xc84
)

// ParseID reads an ID block and its authentication information, each in base64.
// The signatures are the processor's to check.
func ParseID(block, auth []byte) (*ID, error) {
	b, err := decode(block, idBlockSize)
	if err != nil {
		return nil, fmt.Errorf("cannot use the ID block: %w", err)
	}
	a, err := decode(auth, idAuthSize)
	if err != nil {
		return nil, fmt.Errorf("cannot use the ID authentication information: %w", err)
	}
	id := &ID{Block: base64.StdEncoding.EncodeToString(b), Auth: base64.StdEncoding.EncodeToString(a)}
	id.AuthorKey = slices.ContainsFunc(a[authorKey:authorKeyTo], func(x byte) bool { return x != 0 })
	return id, nil
}

// decode says nothing of a text that may be another file's, such as a key's.
func decode(text []byte, size int) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("it is not %d bytes in base64", size)
	}
	return b, nil
}

// HostDataText returns the host's data in base64, empty for none.
func (s SEV) HostDataText() string {
	if s.HostData == [32]byte{} {
		return ""
	}
	return base64.StdEncoding.EncodeToString(s.HostData[:])
}

// snpObject returns what the object has for SEV-SNP only, with a comma before each.
func (s SEV) snpObject() string {
	var o string
	if text := s.HostDataText(); text != "" {
		o += ",host-data=" + text
	}
	if s.ID != nil {
		o += ",id-block=" + s.ID.Block + ",id-auth=" + s.ID.Auth
		if s.ID.AuthorKey {
			o += ",author-key-enabled=on"
		}
	}
	return o
}

// AsksAtSocket reports whether the guest asks for its secrets at a port, which
// is a socket on the host.
func (c Config) AsksAtSocket() bool {
	return c.Channel.Kind == policy.Serial || c.Channel.Kind == policy.Virtio
}

func (c Config) checkChannel() error {
	switch {
	case c.Channel.Kind != "" && c.SEV.Mode != ModeSNP:
		return fmt.Errorf("%w: the guest's line has cocoroot.owner=, so it asks for its secrets; that takes sev-snp, and not %s", ErrConfig, c.SEV.Mode)
	case c.Channel == policy.Channel{Kind: policy.Serial, Name: "ttyS0"}:
		return fmt.Errorf("%w: %s is the console, where the guest cannot ask", ErrConfig, c.Channel)
	case c.AsksAtSocket() != (c.ChannelSocket != ""):
		return fmt.Errorf("%w: %w", ErrConfig, errChannel)
	}
	return nil
}

var errChannel = errors.New("a socket for the channel goes with cocoroot.owner= and a serial or virtio cocoroot.channel= in the guest's line")

// channel returns the options for the port at which the guest asks for its secrets.
func (c Config) channel() []string {
	if c.ChannelSocket == "" {
		return nil
	}
	args := []string{"-chardev", "socket,id=owner,server=on,wait=off,path=" + escape(c.ChannelSocket)}
	if c.Channel.Kind == policy.Serial {
		return append(args, "-device", "isa-serial,chardev=owner,index="+c.SerialPort())
	}
	return append(args, "-device", c.virtio("virtio-serial-pci"), "-device", "virtserialport,chardev=owner,name="+escape(c.Channel.Name))
}

// SerialPort returns the number of the channel's serial port, empty without one.
func (c Config) SerialPort() string {
	if c.Channel.Kind != policy.Serial {
		return ""
	}
	return strings.TrimPrefix(c.Channel.Name, "ttyS")
}
