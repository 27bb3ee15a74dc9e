package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Measurement is a launch digest with all that went into it, for JSON. Sizes are bytes.
type Measurement struct {
	Version  int              `json:"version"` // of this format
	Mode     string           `json:"mode"`
	Digest   digits           `json:"digest"` // SHA-256 for SEV and SEV-ES, SHA-384 for SEV-SNP
	Firmware measuredFirmware `json:"firmware"`
	Hashes   *measuredHashes  `json:"hashes,omitempty"` // with a kernel
	VCPUs    *measuredCPUs    `json:"vcpus,omitempty"`  // not for sev
	Steps    []Step           `json:"steps"`            // in the order of the measurement; the last one's digest is Digest

	bsp, ap *vmsa // of the boot processor, and of each other one; nil where none is measured
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

func (m *Measurement) add(name string, t pageType, address, size uint64, digest []byte) {
	m.Digest = digest
	m.Steps = append(m.Steps, Step{name, t, number(address), size, digest})
}

type measuredFirmware struct {
	Size    int    `json:"size"`
	Address number `json:"address"`
	SHA256  digits `json:"sha256"`
}

// measuredHashes are the blobs' hashes and the table that holds them.
type measuredHashes struct {
	Kernel  digits `json:"kernel"`
	Initrd  digits `json:"initrd"`
	Cmdline digits `json:"cmdline"` // with its NUL
	Table   digits `json:"table"`
	Address number `json:"address"`
}

type measuredCPUs struct {
	Count     int    `json:"count"`
	Signature number `json:"signature"`
	Features  number `json:"guest_features"`
	VMType    string `json:"vm_type,omitempty"` // sev-es
	// The VMSAs' SHA-256, of the first CPU and of each other one.
	BSP digits `json:"bsp_vmsa_sha256"`
	AP  digits `json:"ap_vmsa_sha256,omitempty"`
}

// digits are bytes that JSON has in hex.
type digits []byte

func (d digits) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d), nil }

// number is one that JSON has in hex, with 0x.
type number uint64

func (n number) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%#x", uint64(n)), nil }

// describe returns a measurement before its first step. The boot processor starts at
// the reset vector and the others where the firmware says.
func (in Input) describe(mode string) Measurement {
	sum := in.Firmware.SHA256()
	m := Measurement{Version: 1, Mode: mode, Firmware: measuredFirmware{len(in.Firmware.image), number(in.Firmware.base()), sum[:]}}
	if t := in.Table; t != nil {
		m.Hashes = &measuredHashes{t.Kernel[:], t.Initrd[:], t.Cmdline[:], t.Marshal(), number(in.Firmware.footer.Hashes.Base)}
	}
	if mode == "sev" {
		return m
	}
	c, fpu := in.CPUs, mode == "sev-snp" || in.VMType == Init2
	m.bsp = newVMSA(bootEIP, c, fpu)
	m.VCPUs = &measuredCPUs{Count: c.count, Signature: number(c.signature), Features: number(c.features), BSP: m.bsp.sum()}
	if c.count > 1 {
		m.ap = newVMSA(in.Firmware.footer.ResetAddress, c, fpu)
		m.VCPUs.AP = m.ap.sum()
	}
	if mode == "sev-es" {
		m.VCPUs.VMType = in.VMType.String()
	}
	return m
}

func (v *vmsa) sum() digits {
	sum := sha256.Sum256(v[:])
	return sum[:]
}
