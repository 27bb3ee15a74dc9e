package snptest

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
)

// evidence is a report with the certificates of the key that signed it.
func evidence(t *testing.T, c *Chip, raw []byte) *sevsnp.Attestation {
	t.Helper()
	r, err := abi.ReportToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	chain := &sevsnp.CertificateChain{ArkCert: c.Ark.Raw, AskCert: c.Ask.Raw, VcekCert: c.Vcek.Raw}
	if r.SignerInfo == SignedByVLEK {
		chain = &sevsnp.CertificateChain{ArkCert: c.Ark.Raw, AskCert: c.Asvk.Raw, VlekCert: c.Vlek.Raw}
	}
	return &sevsnp.Attestation{Report: r, CertificateChain: chain}
}

func check(e *sevsnp.Attestation, c *Chip) error {
	roots := c.Roots()
	if err := verify.SnpAttestation(e, &verify.Options{DisableCertFetching: true, TrustedRoots: roots}); err != nil {
		return err
	}
	return validate.SnpAttestation(e, &validate.Options{GuestPolicy: abi.SnpPolicy{SMT: true}, ReportData: make([]byte, 64)})
}

// go-sev-guest takes the reports of Milan and Genoa, with VCEK and VLEK, and
// none that was changed, is another chip's, or has AMD's own roots asked.
func TestReports(t *testing.T) {
	for _, product := range []string{"Milan-B1", "Genoa-B1"} {
		t.Run(product, func(t *testing.T) {
			t.Parallel()
			c, other := NewChip(product, TCB{Bootloader: 9, SNP: 23, Microcode: 72}), NewChip(product, TCB{})
			for _, signer := range []uint32{0, SignedByVLEK} {
				r := c.Report()
				r.SignerInfo = signer
				raw := c.Sign(r)
				if len(raw) != 1184 {
					t.Fatalf("a report of %d bytes; want 1184", len(raw))
				}
				if err := check(evidence(t, c, raw), c); err != nil {
					t.Errorf("signer %d: %v", signer, err)
				}
				if err := check(evidence(t, other, raw), other); err == nil {
					t.Errorf("signer %d: the report is another chip's, and accepted", signer)
				}
				e := evidence(t, c, raw)
				if err := verify.SnpAttestation(e, &verify.Options{DisableCertFetching: true}); err == nil {
					t.Errorf("signer %d: accepted with AMD's own roots", signer)
				}
				raw[0x90] ^= 1
				if err := check(evidence(t, c, raw), c); err == nil {
					t.Errorf("signer %d: the measurement was changed, and accepted", signer)
				}
			}
		})
	}
}

// Turin's certificate has what go-sev-guest does not know, and its TCB and
// CHIP_ID lie elsewhere.
func TestTurin(t *testing.T) {
	tcb := TCB{FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 5}
	c := NewChip("Turin-B1", tcb)
	if got := c.Bits(tcb); got != 0x05000000_04030201 {
		t.Errorf("Bits = %#x", got)
	}
	if got := NewChip("Genoa-B1", tcb).Bits(tcb); got != 0x0504000000000302 {
		t.Errorf("Genoa: Bits = %#x", got)
	}
	if r, err := abi.ReportToProto(c.Sign(c.Report())); err != nil || [56]byte(r.ChipId[8:]) != [56]byte{} {
		t.Errorf("report = %v, %v; want a CHIP_ID of 8 bytes", r, err)
	}
	for _, e := range c.Vcek.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.3704.1.3.9" && string(e.Value) == "\x02\x01\x01" {
			return
		}
	}
	t.Error("the VCEK has no FMC of 1")
}

func TestCRL(t *testing.T) {
	c := NewChip("Genoa-B1", TCB{})
	list, err := x509.ParseRevocationList(c.CRL(0))
	if err == nil {
		err = list.CheckSignatureFrom(c.Ark)
	}
	if err != nil || len(list.RevokedCertificateEntries) != 1 || list.NextUpdate.Before(time.Now()) {
		t.Errorf("CRL = %+v, %v; want one entry", list, err)
	}
}
