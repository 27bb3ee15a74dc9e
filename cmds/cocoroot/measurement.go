package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"cocoroot/initramfs/measure"
)

// measurement is what cocoroot measure --json prints. Digests are hex,
// addresses and registers hex with 0x, sizes decimal bytes.
type measurement struct {
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

// measuredHashes are the blobs' hashes and the table that they stand in.
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

func newMeasurement(mode string, in measureInput, r measure.Result) measurement {
	sum := in.firmware.SHA256()
	m := measurement{
		Version: 1, Mode: mode, Digest: hex.EncodeToString(r.Digest),
		Firmware: measuredFirmware{in.firmware.Size(), address(in.firmware.Base()), hex.EncodeToString(sum[:])},
	}
	if t := in.table; t != nil {
		m.Hashes = &measuredHashes{
			hex.EncodeToString(t.Kernel[:]), hex.EncodeToString(t.Initrd[:]), hex.EncodeToString(t.Cmdline[:]),
			hex.EncodeToString(t.Marshal()), address(in.firmware.HashesBase()),
		}
	}
	if r.BSP != nil {
		m.VCPUs = &measuredCPUs{
			Count: in.cpus.Count(), Signature: address(uint64(in.cpus.Signature())), Features: address(uint64(in.cpus.Features())),
			BSP: vmsaSum(r.BSP), AP: vmsaSum(r.AP),
		}
		if mode == "sev-es" {
			m.VCPUs.VMType = in.vmType.String()
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

func vmsaSum(v *measure.VMSA) string {
	if v == nil {
		return ""
	}
	sum := sha256.Sum256(v[:])
	return hex.EncodeToString(sum[:])
}
