// Package snptest is only for tests: a FAKE security processor that answers
// SEV-SNP guests, with a certificate authority of its own in AMD's formats.
//
// A Chip signs any report that a test makes up. A PSP has such reports ready
// for a guest under QEMU: it is the other end of the module fake_tsm
// (initramfs/oracle/fixtures/faketsm), which Archive puts into a test's initrd.
// Certificates are made by github.com/google/go-sev-guest/testing, whose keys
// anybody can read. It protects nothing.
package snptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/proto/sevsnp"
	sevtesting "github.com/google/go-sev-guest/testing"
	"github.com/google/go-sev-guest/verify/trust"
)

// SignedByVLEK as a report's SignerInfo has it signed by the chip's VLEK (bits
// 4:2, SIGNING_KEY); 0 is the VCEK.
const SignedByVLEK = 1 << 2

// TCB are the versions of a chip's firmware. FMC is Turin's only.
type TCB struct {
	FMC, Bootloader, TEE, SNP, Microcode uint8
}

// Chip is a processor with its keys and their certificates. All chips have the
// same root and ASK keys, under their generation's names.
type Chip struct {
	*sevtesting.AmdSigner        // Ark, Ask, Vcek, Asvk, Vlek; CertTableBytes is an auxblob
	Generation            string // Milan, Genoa or Turin
	TCB                   TCB    // that its certificates are for
	ID                    []byte // CHIP_ID, 64 bytes; on Turin the last 56 are zero

	fms uint32
}

// building guards go-sev-guest's source of random numbers, which is one for all.
var building sync.Mutex

// NewChip makes a chip with fresh keys and a random CHIP_ID. product is as its
// VCEK names it: Milan-B1, Genoa-B1, Turin-B1.
func NewChip(product string, tcb TCB) *Chip {
	parsed := must(kds.ParseProductName(product, abi.VcekReportSigner))
	c := &Chip{TCB: tcb, ID: make([]byte, abi.ChipIDSize), fms: abi.MaskedCpuid1EaxFromSevProduct(parsed)}
	c.Generation, _, _ = strings.Cut(product, "-")
	hwid := c.ID
	if c.Generation == "Turin" {
		hwid = c.ID[:8]
	}
	rand.Read(hwid)

	building.Lock()
	defer building.Unlock()
	keys := sevtesting.DefaultAmdKeys()
	keys.Vcek = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	keys.Vlek = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	made := time.Now().Add(-time.Hour)
	b := sevtesting.AmdSignerBuilder{
		Keys: keys, ProductName: product,
		ArkCreationTime: made, AskCreationTime: made, AsvkCreationTime: made, VcekCreationTime: made, VlekCreationTime: made,
	}
	b.VcekCustom.Extensions = c.extensions(hwid, product)
	b.VlekCustom.Extensions = c.extensions(nil, product)
	c.AmdSigner = must(b.TestOnlyCertChain())
	return c
}

// extensions are those of a VCEK, or without hwid of a VLEK (AMD publication
// 57230). go-sev-guest knows nothing of Turin's FMC.
func (c *Chip) extensions(hwid []byte, product string) []pkix.Extension {
	parts := kds.TCBParts{BlSpl: c.TCB.Bootloader, TeeSpl: c.TCB.TEE, SnpSpl: c.TCB.SNP, UcodeSpl: c.TCB.Microcode}
	all := sevtesting.CustomExtensions(parts, hwid, "snptest", product)
	if c.Generation == "Turin" {
		fmc := must(asn1.Marshal(int(c.TCB.FMC)))
		all = append(all, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 9}, Value: fmc})
	}
	return all
}

// Bits is a TCB_VERSION as the chip's generation has it in reports (AMD
// publication 56860, TCB_VERSION).
func (c *Chip) Bits(v TCB) uint64 {
	if c.Generation == "Turin" {
		return uint64(v.Microcode)<<56 | uint64(v.SNP)<<24 | uint64(v.TEE)<<16 | uint64(v.Bootloader)<<8 | uint64(v.FMC)
	}
	return uint64(v.Microcode)<<56 | uint64(v.SNP)<<48 | uint64(v.TEE)<<8 | uint64(v.Bootloader)
}

// Report returns a report that no one should object to, for the caller to
// change: QEMU's default policy, VMPL 0, no measurement, every TCB the chip's.
func (c *Chip) Report() *sevsnp.Report {
	id := make([]byte, 32)
	rand.Read(id)
	now := c.Bits(c.TCB)
	return &sevsnp.Report{
		Version: 3, Policy: 0x30000, SignatureAlgo: abi.SignEcdsaP384Sha384, Cpuid1EaxFms: c.fms,
		CurrentTcb: now, ReportedTcb: now, CommittedTcb: now, LaunchTcb: now,
		CurrentMajor: 1, CurrentMinor: 55, CurrentBuild: 40, CommittedMajor: 1, CommittedMinor: 55, CommittedBuild: 40,
		FamilyId: make([]byte, 16), ImageId: make([]byte, 16), ReportData: make([]byte, 64), Measurement: make([]byte, 48),
		HostData: make([]byte, 32), IdKeyDigest: make([]byte, 48), AuthorKeyDigest: make([]byte, 48),
		ReportId: id, ReportIdMa: make([]byte, 32), ChipId: slices.Clone(c.ID), Signature: make([]byte, abi.SignatureSize),
	}
}

// Sign returns the report as the processor gives it to the guest: 1184 bytes.
func (c *Chip) Sign(r *sevsnp.Report) []byte {
	raw := must(abi.ReportToAbiBytes(r))
	c.SignRaw(raw)
	return raw
}

// SignRaw signs the 1184 bytes of a report as they are, in place.
func (c *Chip) SignRaw(raw []byte) {
	r, s, err := c.AmdSigner.Sign(abi.SignedComponent(raw))
	must(0, err)
	must(0, abi.SetSignature(r, s, raw))
}

// Roots are the chip's authority as go-sev-guest's verify takes them.
func (c *Chip) Roots() map[string][]*trust.AMDRootCerts {
	certs := &trust.ProductCerts{Ark: c.Ark, Ask: c.Ask, Asvk: c.Asvk}
	return map[string][]*trust.AMDRootCerts{c.Generation: {{ProductLine: c.Generation, ProductCerts: certs}}}
}

// CRL is a list of the authority's, in DER, that is valid for a day and revokes
// certificates by their numbers: 0 every VCEK and VLEK, 0xc0dec0de the rest.
func (c *Chip) CRL(revoked ...int64) []byte {
	list := &x509.RevocationList{
		Number: big.NewInt(1), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(23 * time.Hour),
	}
	for _, number := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(number), RevocationTime: list.ThisUpdate})
	}
	return must(x509.CreateRevocationList(rand.Reader, list, c.Ark, c.Keys.Ark))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
