package snp

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/verify/trust"
)

// part is one of the versions that make up a TCB_VERSION (AMD publication 57230,
// table of the certificate's extensions).
type part struct {
	name string // in --min-tcb
	kds  string // the parameter of AMD's key server
	oid  asn1.ObjectIdentifier
}

var parts = [...]part{
	{"fmc", "fmcSPL", asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 9}},
	{"bootloader", "blSPL", kds.OidBlSpl},
	{"tee", "teeSPL", kds.OidTeeSpl},
	{"snp", "snpSPL", kds.OidSnpSpl},
	{"microcode", "ucodeSPL", kds.OidUcodeSpl},
}

// layout says which byte of the u64 TCB_VERSION each part is; -1: none (AMD
// publication 56860, TCB_VERSION).
type layout [len(parts)]int

var (
	milanLayout = layout{-1, 0, 1, 6, 7} // and Genoa's
	turinLayout = layout{0, 1, 2, 3, 7}
)

// TCB are the versions of a platform's firmware, in the order of parts.
type TCB [len(parts)]uint8

// String implements fmt.Stringer.
func (t TCB) String() string {
	var words []string
	for i, p := range parts {
		words = append(words, fmt.Sprintf("%s=%d", p.name, t[i]))
	}
	return strings.Join(words, ",")
}

// ParseTCB reads NAME=NUMBER,… and takes what is not named from least.
func ParseTCB(s string, least TCB) (TCB, error) {
	for word := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(word, "=")
		i := slices.IndexFunc(parts[:], func(p part) bool { return p.name == name })
		n, err := strconv.ParseUint(value, 0, 8)
		if i < 0 || err != nil {
			return TCB{}, fmt.Errorf("%.40q is not one of fmc, bootloader, tee, snp, microcode with a number up to 255", word)
		}
		least[i] = uint8(n)
	}
	return least, nil
}

// short returns the name of a part of t that is below least, or "".
func (t TCB) short(least TCB) string {
	for i, p := range parts {
		if t[i] < least[i] {
			return p.name
		}
	}
	return ""
}

// Generation is a generation of EPYC processors.
type Generation struct {
	Name string
	// Floor is the least firmware that is accepted when nothing else is asked for.
	Floor    TCB
	ChipSize int // the length of a chip's ID in bytes
	layout   layout
	family   byte
	models   [][2]byte // of CPUID 1, from and to
	// AMD's chains of both kinds, PEM.
	vcek, vlek *[]byte
}

// The generations that AMD's roots are known of. Families and models are those
// of virtee/sev at 9cf2adb, src/lib.rs.
//
// The floors are AMD's for the SNP firmware, as others quote them; this was
// written without access to AMD's pages: Milan's is AMD-SB-3030 (May 2026,
// CVE-2025-61971), Genoa's AMD-SB-3034 (CVE-2025-54510). Turin's number was not
// to be found. Microcode has none, for AMD numbers it by stepping, and the
// numbers of two steppings do not compare.
var generations = []Generation{
	{"Milan", TCB{3: 0x1d}, 64, milanLayout, 0x19, [][2]byte{{0x00, 0x0f}}, &trust.AskArkMilanVcekBytes, &trust.AskArkMilanVlekBytes},
	{"Genoa", TCB{3: 0x1c}, 64, milanLayout, 0x19, [][2]byte{{0x10, 0x1f}, {0xa0, 0xaf}}, &trust.AskArkGenoaVcekBytes, &trust.AskArkGenoaVlekBytes},
	{"Turin", TCB{}, 8, turinLayout, 0x1a, [][2]byte{{0x00, 0x11}}, &trust.AskArkTurinVcekBytes, &trust.AskArkTurinVlekBytes},
}

// Generations returns the names of those that can be verified.
func Generations() []string {
	var names []string
	for _, g := range generations {
		names = append(names, g.Name)
	}
	return names
}

// FindGeneration returns the generation of that name.
func FindGeneration(name string) (Generation, error) {
	i := slices.IndexFunc(generations, func(g Generation) bool { return g.Name == name })
	if i < 0 {
		return Generation{}, fmt.Errorf("%.40q is not one of %s", name, strings.Join(Generations(), ", "))
	}
	return generations[i], nil
}

// generationOf returns the generation of the processor that made a report of
// version 3 or later. One that is not known has no roots, and a name that says so.
func generationOf(report []byte) Generation {
	family, model := report[0x188], report[0x189]
	for _, g := range generations {
		if family == g.family && slices.ContainsFunc(g.models, func(m [2]byte) bool { return m[0] <= model && model <= m[1] }) {
			return g
		}
	}
	return Generation{Name: fmt.Sprintf("family %#x, model %#x", family, model)}
}

// tcb takes a TCB_VERSION apart.
func (g Generation) tcb(v uint64) (TCB, error) {
	b := binary.LittleEndian.AppendUint64(nil, v)
	var t TCB
	for i, at := range g.layout {
		if at >= 0 {
			t[i], b[at] = b[at], 0
		}
	}
	if !isZero(b) {
		return TCB{}, fmt.Errorf("%#016x is not a version of %s's firmware", v, g.Name)
	}
	return t, nil
}

// chip returns the part of a CHIP_ID that names the chip.
func (g Generation) chip(id []byte) []byte { return id[:g.ChipSize] }

// Roots returns a generation's root (ARK) and what it signs chips with: ASK for a
// VCEK, ASVK for a VLEK. The nil function returns AMD's.
type Roots func(g Generation, vlek bool) (ark, ask *x509.Certificate, err error)

func (f Roots) of(g Generation, vlek bool) (ark, ask *x509.Certificate, err error) {
	if f != nil {
		return f(g, vlek)
	}
	chain := *g.vcek
	if vlek {
		chain = *g.vlek
	}
	certs := new(trust.ProductCerts)
	err = certs.FromKDSCertBytes(bytes.TrimSpace(chain)) // one of them ends in an empty line, which it does not take
	if vlek {
		certs.Ask = certs.Asvk
	}
	if err == nil && (certs.Ark == nil || certs.Ask == nil) {
		err = errors.New("they are not there")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read AMD's roots: %w", err)
	}
	return certs.Ark, certs.Ask, nil
}

// signingKey is a key that AMD certifies to sign reports.
type signingKey struct {
	cert, ask, ark *x509.Certificate
	tcb            TCB
	chip           []byte // of a VCEK
}

// keyKind is the kind of the key that signs.
func keyKind(vlek bool) string {
	if vlek {
		return "VLEK"
	}
	return "VCEK"
}

// verifyKey reads a certificate in DER or PEM, and verifies the chain from it up to
// AMD's root.
func (g Generation) verifyKey(cert []byte, vlek bool, roots Roots, now time.Time) (k signingKey, err error) {
	kind := keyKind(vlek)
	if k.cert, err = x509.ParseCertificate(der(cert)); err != nil {
		return k, fmt.Errorf("the %s's certificate cannot be read: %w", kind, err)
	}
	if k.ark, k.ask, err = roots.of(g, vlek); err != nil {
		return k, err
	}
	chain := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	chain.Roots.AddCert(k.ark)
	chain.Intermediates.AddCert(k.ask)
	if _, err = k.cert.Verify(chain); err == nil {
		k.tcb, k.chip, err = g.endorsed(k.cert)
	}
	if err != nil {
		return k, fmt.Errorf("the %s is not AMD's of %s: %w", kind, g.Name, err)
	}
	if name := "SEV-" + kind; k.cert.Subject.CommonName != name || k.cert.IsCA {
		return k, fmt.Errorf("the certificate is of %.40q, and not of %s", k.cert.Subject.CommonName, name)
	}
	return k, nil
}

// endorsed reads the extensions of a certificate. A chip ID is 64 bytes and on
// Turin 8, bare or as an OCTET STRING. (kds.CertificateExtensions does not know Turin.)
func (g Generation) endorsed(c *x509.Certificate) (tcb TCB, chip []byte, err error) {
	values := make(map[string][]byte)
	for _, x := range c.Extensions {
		values[x.Id.String()] = x.Value
	}
	for i, p := range parts {
		if g.layout[i] < 0 {
			continue
		}
		var n int
		if rest, err := asn1.Unmarshal(values[p.oid.String()], &n); err != nil || len(rest) > 0 || n < 0 || n > 255 {
			return tcb, nil, fmt.Errorf("its version of %s is missing, or cannot be read", p.name)
		}
		tcb[i] = uint8(n)
	}
	chip = values[kds.OidHwid.String()]
	if len(chip) != 0 && len(chip) != g.ChipSize {
		if rest, err := asn1.Unmarshal(chip, &chip); err != nil || len(rest) > 0 {
			return tcb, nil, errors.New("its chip ID cannot be read")
		}
	}
	return tcb, chip, nil
}

// der takes the bytes of DER or PEM.
func der(b []byte) []byte {
	if block, _ := pem.Decode(b); block != nil {
		return block.Bytes
	}
	return b
}

// checkCRL checks that a list of AMD's root is good now and has not taken back
// the certificate of the key that signs the chips' keys. The keys themselves are
// never on a list: newer firmware has another one.
func checkCRL(list []byte, ark, ask *x509.Certificate, now time.Time) error {
	crl, err := x509.ParseRevocationList(der(list))
	if err != nil {
		return fmt.Errorf("the revocation list cannot be read: %w", err)
	}
	if err := crl.CheckSignatureFrom(ark); err != nil {
		return fmt.Errorf("the revocation list is not this generation's: %w", err)
	}
	if now.After(crl.NextUpdate) {
		return fmt.Errorf("the revocation list is out of date since %s", crl.NextUpdate.Format(time.RFC3339))
	}
	for _, bad := range crl.RevokedCertificateEntries {
		if bad.SerialNumber.Cmp(ask.SerialNumber) == 0 {
			return fmt.Errorf("AMD has revoked %s at %s", ask.Subject.CommonName, bad.RevocationTime.Format(time.RFC3339))
		}
	}
	return nil
}
