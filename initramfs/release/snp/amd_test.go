package snp

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"

	"github.com/google/go-sev-guest/abi"
)

// Certificates of real chips are up to the roots that are built in, and say what
// chip and firmware they are of.
func TestRealCertificates(t *testing.T) {
	for _, tc := range []struct {
		name, chip, tcb string
	}{
		{"Milan", "d495", "fmc=0,bootloader=3,tee=0,snp=8,microcode=115"},
		{"Turin", "1e550a8ee5cf9f4d", "fmc=0,bootloader=0,tee=0,snp=0,microcode=9"},
	} {
		key, err := os.ReadFile("testdata/vcek_" + strings.ToLower(tc.name) + ".der")
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range generations {
			k, err := g.verifyKey(key, false, nil, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
			if g.Name != tc.name {
				if err == nil {
					t.Errorf("the VCEK of %s is taken for one of %s", tc.name, g.Name)
				}
				continue
			}
			if err != nil || !strings.HasPrefix(hex.EncodeToString(k.chip), tc.chip) || k.tcb.String() != tc.tcb {
				t.Errorf("%s: %v, chip %x, %s; want chip %s, %s", tc.name, err, k.chip, k.tcb, tc.chip, tc.tcb)
			}
		}
	}
}

// Both kinds of roots are there for each generation.
func TestRoots(t *testing.T) {
	for _, g := range generations {
		for vlek, name := range map[bool]string{false: "SEV-" + g.Name, true: "SEV-VLEK-" + g.Name} {
			ark, ask, err := Roots(nil).of(g, vlek)
			if err != nil {
				t.Errorf("%s, VLEK %v: %v", g.Name, vlek, err)
			} else if other, _, _ := Roots(nil).of(g, !vlek); !ark.Equal(other) || ark.Subject.CommonName != "ARK-"+g.Name || ask.Subject.CommonName != name {
				t.Errorf("%s, VLEK %v: %v, %v", g.Name, vlek, ark.Subject, ask.Subject)
			}
		}
	}
}

// TestLibrary holds our verdict against that of go-sev-guest: it accepts a good
// guest, as we do, and one that hides its chip, as we do not.
func TestLibrary(t *testing.T) {
	s := newScene(t, "Genoa-B1")
	hidden := newScene(t, "Genoa-B1")
	hidden.report.ChipId = make([]byte, 64)
	for _, s := range []*scene{s, hidden} {
		report, err := abi.ReportToProto(s.ask(t).Report)
		if err != nil {
			t.Fatal(err)
		}
		a := &sevsnp.Attestation{Report: report, CertificateChain: &sevsnp.CertificateChain{VcekCert: s.evidence.Key}}
		if err := verify.SnpAttestation(a, &verify.Options{DisableCertFetching: true, TrustedRoots: s.chip.Roots(), Now: s.expect.Now}); err != nil {
			t.Errorf("go-sev-guest does not verify it: %v", err)
		}
		if err := validate.SnpAttestation(a, &validate.Options{GuestPolicy: abi.SnpPolicy{SMT: true}, ReportData: report.ReportData, Measurement: digest[:]}); err != nil {
			t.Errorf("go-sev-guest does not accept it: %v", err)
		}
	}
}

func TestTCB(t *testing.T) {
	least := TCB{1, 2, 3, 4, 5}
	for text, want := range map[string]TCB{
		"snp=28":                   {1, 2, 3, 28, 5},
		"snp=0x1c,microcode=84":    {1, 2, 3, 28, 84},
		"bootloader=9,tee=0,fmc=2": {2, 9, 0, 4, 5},
	} {
		if got, err := ParseTCB(text, least); err != nil || got != want {
			t.Errorf("ParseTCB(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "snp", "snp=", "snp=256", "snp=-1", "snp=1,", "ucode=1", "SNP=1", "snp =1"} {
		if got, err := ParseTCB(text, least); err == nil {
			t.Errorf("ParseTCB(%q) = %v; want an error", text, got)
		}
	}
}
