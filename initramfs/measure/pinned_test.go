package measure

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"testing"
)

// pinned is one of testdata/pinned.json: digests that sev-snp-measure
// computed of the files that image_test.go makes.
type pinned struct {
	Mode, Cmdline, Digest string
	Kernel, Initrd        bool
	VCPUs                 int
	VCPUType              string `json:"vcpu_type"`
	Features              string `json:"guest_features"`
	VMM                   string // "": qemu
}

func TestPinned(t *testing.T) {
	text, err := os.ReadFile("testdata/pinned.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Vectors []pinned }
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Vectors) != 18 {
		t.Errorf("%d vectors; want 18", len(all.Vectors))
	}
	for i, v := range all.Vectors {
		t.Run(fmt.Sprintf("%d %s", i, v.Mode), func(t *testing.T) {
			r, err := v.measure(t)
			if got := hex.EncodeToString(r.Digest); err != nil || got != v.Digest {
				t.Errorf("digest = %s, %v; want %s", got, err, v.Digest)
			}
			if last := r.Steps[len(r.Steps)-1]; hex.EncodeToString(last.Digest) != v.Digest {
				t.Errorf("the last step's digest = %x; want %s", last.Digest, v.Digest)
			}
		})
	}
}

func (v pinned) measure(t *testing.T) (Measurement, error) {
	f, err := NewFirmware(goodFirmware())
	if err != nil {
		t.Fatal(err)
	}
	var table *HashesTable
	if v.Kernel {
		var initrd io.Reader
		if v.Initrd {
			initrd = counter("cocoroot/initrd", 3000)
		}
		made, err := NewHashesTable(counter("cocoroot/kernel", 5000), initrd, v.Cmdline)
		if err != nil {
			t.Fatal(err)
		}
		table = &made
	}
	if v.Mode == "sev" {
		return SEV(f, table)
	}
	cpus := vector{VCPUs: v.VCPUs, VCPUType: v.VCPUType, Features: v.Features}.cpus(t)
	if v.Mode == "sev-es" {
		return SEVES(f, table, cpus, Init2)
	}
	if v.VMM != "" {
		vmm, err := ParseVMM(v.VMM)
		if err != nil {
			t.Fatal(err)
		}
		cpus = cpus.Under(vmm)
	}
	return SNP(f, table, cpus)
}
