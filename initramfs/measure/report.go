package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Input is what a launch digest is computed from.
type Input struct {
	Firmware Firmware
	Table    *HashesTable // nil without a kernel
	CPUs     CPUs         // not for sev
	VMType   VMType       // sev-es
	SVSM     *SVSM        // sev-snp
}

// Digest computes the launch digest for mode sev, sev-es or sev-snp.
func (in Input) Digest(mode string) (Result, error) {
	switch {
	case mode == "sev":
		return SEV(in.Firmware, in.Table)
	case mode == "sev-es":
		return SEVES(in.Firmware, in.Table, in.CPUs, in.VMType)
	case in.SVSM != nil:
		return SNPWithSVSM(in.Firmware, *in.SVSM, in.CPUs)
	}
	return SNP(in.Firmware, in.Table, in.CPUs)
}

// Measurement is a digest with all that went into it, as JSON. Digests are hex,
// addresses and registers hex with 0x, sizes decimal bytes.
type Measurement struct {
	Version  int               `json:"version"` // of this format
	Mode     string            `json:"mode"`
	Digest   string            `json:"digest"`
	Firmware measuredFirmware  `json:"firmware"`
	Hashes   *measuredHashes   `json:"hashes,omitempty"` // with a kernel
	VCPUs    *measuredCPUs     `json:"vcpus,omitempty"`  // not for sev
	Steps    []measurementStep `json:"steps"`
}

type measuredFirmware struct {
	Size    int    `json:"size"`
	Address string `json:"address"`
	SHA256  string `json:"sha256"`
}

// measuredHashes are the blobs' hashes and the table that holds them.
type measuredHashes struct {
	Kernel  string `json:"kernel"`
	Initrd  string `json:"initrd"`
	Cmdline string `json:"cmdline"` // with its NUL
	Table   string `json:"table"`
	Address string `json:"address"`
}

type measuredCPUs struct {
	Count     int    `json:"count"`
	Signature string `json:"signature"`
	Features  string `json:"guest_features"`
	VMType    string `json:"vm_type,omitempty"` // sev-es
	// The VMSAs' SHA-256, of the first CPU and of each other one.
	BSP string `json:"bsp_vmsa_sha256"`
	AP  string `json:"ap_vmsa_sha256,omitempty"`
}

// measurementStep is a thing that was measured, with the digest behind it.
type measurementStep struct {
	Name     string `json:"name"`
	PageType string `json:"page_type,omitempty"` // sev-snp
	Address  string `json:"address,omitempty"`
	Size     uint64 `json:"size"`
	Digest   string `json:"digest"`
}

// NewMeasurement describes what Digest returned for the mode.
func NewMeasurement(mode string, in Input, r Result) Measurement {
	sum := in.Firmware.SHA256()
	m := Measurement{
		Version: 1, Mode: mode, Digest: hex.EncodeToString(r.Digest),
		Firmware: measuredFirmware{in.Firmware.Size(), address(in.Firmware.Base()), hex.EncodeToString(sum[:])},
	}
	if t := in.Table; t != nil {
		m.Hashes = &measuredHashes{
			hex.EncodeToString(t.Kernel[:]), hex.EncodeToString(t.Initrd[:]), hex.EncodeToString(t.Cmdline[:]),
			hex.EncodeToString(t.Marshal()), address(in.Firmware.HashesBase()),
		}
	}
	if r.BSP != nil {
		m.VCPUs = &measuredCPUs{
			Count: in.CPUs.Count(), Signature: address(uint64(in.CPUs.Signature())), Features: address(uint64(in.CPUs.Features())),
			BSP: vmsaSum(r.BSP), AP: vmsaSum(r.AP),
		}
		if mode == "sev-es" {
			m.VCPUs.VMType = in.VMType.String()
		}
	}
	for _, s := range r.Steps {
		step := measurementStep{Name: s.Name, Size: s.Size, Digest: hex.EncodeToString(s.Digest)}
		if s.PageType != 0 {
			step.PageType = s.PageType.String()
		}
		if s.Address != 0 {
			step.Address = address(s.Address)
		}
		m.Steps = append(m.Steps, step)
	}
	return m
}

func address(n uint64) string { return fmt.Sprintf("%#x", n) }

func vmsaSum(v *VMSA) string {
	if v == nil {
		return ""
	}
	sum := sha256.Sum256(v[:])
	return hex.EncodeToString(sum[:])
}
