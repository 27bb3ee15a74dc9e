package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/oracle"
)

// vectors is measure.json, whose digests were computed by sev-snp-measure.
type vectors struct {
	Vectors []vector
	Large   struct {
		HashesTable string            `json:"hashes_table"`
		SHA256      map[string]string `json:"sha256"`
		Digests     map[string]string
		SNPSteps    map[string]string `json:"snp_steps"`
		VMSA        map[string]string `json:"vmsa_sha256"`
	}
}

type vector struct {
	Name, Mode, OVMF, Digest, Append, Error string

	Kernel   *string // "empty file" or null
	VCPUs    int
	VCPUType string `json:"vcpu_type"`
	Features string `json:"guest_features"`
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	var v vectors
	if err := json.Unmarshal(oracle.Vector(t, "measure.json"), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func vectorFirmware(t testing.TB, name string) Firmware {
	t.Helper()
	f, err := NewFirmware(oracle.Vector(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (v vector) cpus(t *testing.T) CPUs {
	t.Helper()
	s, err := LookupCPUType(v.VCPUType)
	if err != nil {
		t.Fatal(err)
	}
	var f Features
	if v.Features != "" {
		if f, err = ParseFeatures(v.Features); err != nil {
			t.Fatal(err)
		}
	}
	cpus, err := NewCPUs(v.VCPUs, s, f)
	if err != nil {
		t.Fatal(err)
	}
	return cpus
}

func (v vector) table(t *testing.T) *HashesTable {
	t.Helper()
	if v.Kernel == nil {
		return nil
	}
	table, err := NewHashesTable(strings.NewReader(""), strings.NewReader(""), v.Append)
	if err != nil {
		t.Fatal(err)
	}
	return &table
}

func TestVectors(t *testing.T) {
	all := readVectors(t).Vectors
	if len(all) < 9 {
		t.Errorf("measure.json has %d vectors; 9 were known", len(all))
	}
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			var r Measurement
			var err error
			switch v.Mode {
			case "sev":
				r, err = SEV(vectorFirmware(t, v.OVMF), v.table(t))
			case "sev-es":
				r, err = SEVES(vectorFirmware(t, v.OVMF), v.table(t), v.cpus(t), Init2)
			case "sev-snp":
				r, err = SNP(vectorFirmware(t, v.OVMF), v.table(t), v.cpus(t))
			case "sev, sev-es and sev-snp":
				v.refused(t)
				return
			default:
				t.Fatalf("unknown mode %q", v.Mode)
			}
			if err != nil || hex.EncodeToString(r.Digest) != v.Digest {
				t.Errorf("digest = %x, %v; want %s", r.Digest, err, v.Digest)
			}
		})
	}
}

// refused checks that a firmware without a place for hashes is refused in every
// mode when there is a kernel.
func (v vector) refused(t *testing.T) {
	f, table := vectorFirmware(t, v.OVMF), v.table(t)
	_, sev := SEV(f, table)
	_, es := SEVES(f, table, testCPUs(t, 1, 0), Init2)
	_, snp := SNP(f, table, testCPUs(t, 1, SNPActive))
	for mode, err := range map[string]error{"sev": sev, "sev-es": es, "sev-snp": snp} {
		if !errors.Is(err, ovmf.ErrNoArea) {
			t.Errorf("%s: error = %v; want ErrNoArea", mode, err)
		}
	}
}

// TestVectorFiles shows where the two images come from.
func TestVectorFiles(t *testing.T) {
	for name, want := range map[string][]byte{"amdsev.fd": amdSev(4096), "ovmfx64.fd": ovmfX64()} {
		if !bytes.Equal(oracle.Vector(t, name), want) {
			t.Errorf("%s is not what image_test.go makes", name)
		}
	}
}

// TestVectorLarge compares every intermediate value that the vectors have.
func TestVectorLarge(t *testing.T) {
	want := readVectors(t).Large
	table, err := NewHashesTable(
		counter("sev-vectors-v1/kernel.bin", 12<<20), counter("sev-vectors-v1/initrd.bin", 20<<20), "console=ttyS0 loglevel=7")
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFirmware(amdSev(4 << 20))
	if err != nil {
		t.Fatal(err)
	}
	firmware := f.SHA256()
	for name, got := range map[string][32]byte{
		"kernel": table.Kernel, "initrd": table.Initrd, "cmdline_with_NUL": table.Cmdline, "firmware": firmware,
	} {
		if hex.EncodeToString(got[:]) != want.SHA256[name] {
			t.Errorf("SHA-256 of %s = %x; want %s", name, got, want.SHA256[name])
		}
	}
	if got := hex.EncodeToString(table.Marshal()); got != want.HashesTable {
		t.Errorf("Marshal() = %s; want %s", got, want.HashesTable)
	}
	sev, err := SEV(f, &table)
	same(t, "sev", sev.Digest, want.Digests["sev"], err)
	es, err := SEVES(f, &table, testCPUs(t, 2, 0), Init2)
	same(t, "sev-es, after the first VMSA", es.Steps[2].Digest, want.Digests["sev_es_1_vcpu_EPYC_v4_init2"], err)
	bsp, ap := sha256.Sum256(es.bsp[:]), sha256.Sum256(es.ap[:])
	same(t, "boot processor's VMSA", bsp[:], want.VMSA["EPYC_v4_sev_features_0_BSP"], nil)
	same(t, "other processor's VMSA", ap[:], want.VMSA["EPYC_v4_sev_features_0_AP"], nil)
	es, err = SEVES(f, nil, testCPUs(t, 1, 0), Legacy)
	bsp = sha256.Sum256(es.bsp[:])
	same(t, "boot processor's VMSA, legacy", bsp[:], want.VMSA["EPYC_v4_sev_features_0_BSP_legacy"], err)

	snp, err := SNP(f, &table, testCPUs(t, 1, SNPActive))
	same(t, "sev-snp", snp.Digest, want.Digests["sev_snp_1_vcpu_EPYC_v4_features_0x1"], err)
	for _, s := range snp.Steps {
		switch s.Name {
		case "firmware":
			same(t, "after the firmware", s.Digest, want.SNPSteps["after_firmware"], nil)
		case "kernel_hashes":
			same(t, "after the hashes page", s.Digest, want.SNPSteps["after_hashes_page"], nil)
		}
	}
}

func same(t *testing.T, what string, got []byte, want string, err error) {
	t.Helper()
	if err != nil || want == "" || hex.EncodeToString(got) != want {
		t.Errorf("%s: %x, %v; want %s", what, got, err, want)
	}
}

func testCPUs(t testing.TB, n int, f Features) CPUs {
	t.Helper()
	s, err := LookupCPUType("EPYC-v4")
	if err != nil {
		t.Fatal(err)
	}
	cpus, err := NewCPUs(n, s, f)
	if err != nil {
		t.Fatal(err)
	}
	return cpus
}

// counter yields n bytes of SHA-256 in counter mode.
func counter(seed string, n int) io.Reader { return bytes.NewReader(counted(seed, n)) }

func counted(seed string, n int) []byte {
	var b []byte
	for i := uint64(0); len(b) < n; i++ {
		h := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(seed), i))
		b = append(b, h[:]...)
	}
	return b[:n]
}
