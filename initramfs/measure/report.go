package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Measurement is a digest with all that went into it, for JSON. Sizes are bytes.
type Measurement struct {
	Version  int              `json:"version"` // of this format
	Mode     string           `json:"mode"`
	Digest   digits           `json:"digest"`
	Firmware measuredFirmware `json:"firmware"`
	Hashes   *measuredHashes  `json:"hashes,omitempty"` // with a kernel
	VCPUs    *measuredCPUs    `json:"vcpus,omitempty"`  // not for sev
	Steps    []Step           `json:"steps"`
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

// NewMeasurement describes what Digest returned for the mode.
func NewMeasurement(mode string, in Input, r Result) Measurement {
	sum := in.Firmware.SHA256()
	m := Measurement{
		Version: 1, Mode: mode, Digest: r.Digest, Steps: r.Steps,
		Firmware: measuredFirmware{len(in.Firmware.image), number(in.Firmware.base()), sum[:]},
	}
	if t := in.Table; t != nil {
		m.Hashes = &measuredHashes{t.Kernel[:], t.Initrd[:], t.Cmdline[:], t.Marshal(), number(in.Firmware.footer.Hashes.Base)}
	}
	if c := in.CPUs; r.BSP != nil {
		m.VCPUs = &measuredCPUs{Count: c.count, Signature: number(c.signature), Features: number(c.features), BSP: r.BSP.sum(), AP: r.AP.sum()}
		if mode == "sev-es" {
			m.VCPUs.VMType = in.VMType.String()
		}
	}
	return m
}

func (v *VMSA) sum() digits {
	if v == nil {
		return nil
	}
	sum := sha256.Sum256(v[:])
	return sum[:]
}
