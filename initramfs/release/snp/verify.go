package snp

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
)

// Digest is a launch digest of SEV-SNP.
type Digest [abi.MeasurementSize]byte

// Expect is what a guest has to show. Empty fields demand nothing, but for
// Digests, of which one has to match.
type Expect struct {
	Owner      ed25519.PublicKey
	Challenge  Challenge
	Now        time.Time
	Generation Generation
	VLEK       bool // the report is signed with a cloud's key, not the chip's
	Digests    []Digest
	MinTCB     TCB
	Require    []Requirement
	Chips      [][]byte // one of them; 64 bytes, or 8 on Turin
	HostData   []byte   // 32 bytes
	IDKey      []byte   // ID_KEY_DIGEST, 48 bytes
	FamilyID   []byte   // 16 bytes
	ImageID    []byte   // 16 bytes

	Roots Roots // of tests; nil is AMD's, and the command line offers nothing else
}

// Evidence are the certificates that go with a report. They are believed only as
// far as AMD's root says.
type Evidence struct {
	Key  []byte // VCEK or VLEK, DER or PEM
	CRLs [][]byte
}

// Refusal says which check a guest did not pass.
type Refusal struct {
	Check string // its name, as initramfs/release/README.md has it
	Err   error
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v", r.Check, r.Err) }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }

func refusef(check, format string, args ...any) error {
	return &Refusal{check, fmt.Errorf(format, args...)}
}

// Verify checks that a request comes from a guest that meets the expectation. The
// error is a *Refusal for a guest that does not. What comes before the signature is
// nobody's word, and only looked at to find out whose key it is.
func Verify(e Expect, r Request, v Evidence) (Facts, error) {
	report, err := abi.ReportToProto(r.Report)
	if err != nil {
		return Facts{}, refusef("form", "the report cannot be read: %w", err)
	}
	key, err := e.checkKey(r, report, v)
	if err == nil {
		err = e.checkCertified(report, key)
	}
	if err == nil {
		err = e.checkGuest(r, report)
	}
	if err == nil {
		err = e.checkFirmware(report)
	}
	if err == nil {
		err = e.checkDemands(report)
	}
	if err != nil {
		return Facts{}, err
	}
	tcb, err := e.Generation.tcb(report.ReportedTcb)
	return Facts{e.Generation.Name, hex.EncodeToString(report.Measurement), fmt.Sprintf("%#x", report.Policy), tcb.String(),
		hex.EncodeToString(e.Generation.chip(report.ChipId)), hex.EncodeToString(report.ReportId)}, err
}

// Facts are what a verified report says of the guest and its host.
type Facts struct {
	Generation  string `json:"generation"`
	Measurement string `json:"measurement"`
	Policy      string `json:"policy"`
	Firmware    string `json:"firmware"` // REPORTED_TCB
	ChipID      string `json:"chip_id"`
	ReportID    string `json:"report_id"`
}

// checkKey verifies the chain from AMD's root down to the report's signature.
// Version 2 does not say what processor it is of.
func (e *Expect) checkKey(r Request, report *sevsnp.Report, v Evidence) (signingKey, error) {
	if n := report.Version; n < abi.ReportVersion3 || n > abi.ReportVersion5 {
		return signingKey{}, refusef("version", "the report is of version %d, and 3 to 5 are known; firmware that reports 2 is too old", n)
	}
	if g := generationOf(r.Report); g.Name != e.Generation.Name {
		return signingKey{}, refusef("generation", "the processor is of %s, and not of %s", g.Name, e.Generation.Name)
	}
	signer, err := abi.ParseSignerInfo(report.SignerInfo)
	if err != nil {
		return signingKey{}, refusef("signer", "%w", err)
	}
	if got, want := signer.SigningKey.String(), keyKind(e.VLEK); got != want {
		return signingKey{}, refusef("signer", "the report is signed with a %s, and not with a %s", got, want)
	}
	key, err := e.Generation.verifyKey(v.Key, e.VLEK, e.Roots, e.Now)
	if err != nil {
		return key, refusef("certificate", "%w", err)
	}
	for _, list := range v.CRLs {
		if err := checkCRL(list, key.ark, key.ask, e.Now); err != nil {
			return key, refusef("revocation", "%w", err)
		}
	}
	if err := verify.SnpReportSignature(r.Report, key.cert); err != nil {
		return key, refusef("signature", "the report is not signed by the certificate's key: %w", err)
	}
	return key, nil
}

// checkCertified checks that the certificate is this chip's, with this firmware. A
// host may hide its chip's ID; then nothing says which chip it is. A VLEK is a
// cloud's, for all of its chips.
func (e *Expect) checkCertified(report *sevsnp.Report, key signingKey) error {
	id := report.ChipId
	named := e.Generation.chip(id)
	switch {
	case e.VLEK:
	case isZero(id):
		return refusef("certified chip", "the host hides the chip's ID (MASK_CHIP_ID)")
	case !bytes.Equal(key.chip, named) || !isZero(id[len(named):]):
		return refusef("certified chip", "the report is of the chip %x, and the certificate of %x", id, key.chip)
	}
	reported, err := e.Generation.tcb(report.ReportedTcb)
	if err != nil {
		return refusef("certified firmware", "%w", err)
	}
	if reported != key.tcb {
		return refusef("certified firmware", "the report is of %s, and the certificate of %s", reported, key.tcb)
	}
	return nil
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// checkGuest checks that it is the guest that has just asked, and what it runs. A
// VMPL above 0 is less than the guest's highest privilege, such as of a kernel under
// an SVSM. 0 does not tell init from what root runs later in the same guest: both
// ask from there.
func (e *Expect) checkGuest(r Request, report *sevsnp.Report) error {
	if !bytes.Equal(r.Challenge[:], e.Challenge.Bytes) {
		return refusef("challenge", "the request answers another one")
	}
	if err := e.Challenge.fresh(e.Now); err != nil {
		return refusef("challenge", "%w", err)
	}
	if want := r.ReportData(e.Owner); !bytes.Equal(report.ReportData, want[:]) {
		return refusef("report data", "the report is not over this challenge, public key and owner: the request was changed, or the guest has another owner's key in its command line")
	}
	if !slices.Contains(e.Digests, Digest(report.Measurement)) {
		return refusef("measurement", "it is %x, which is none of the expected ones", report.Measurement)
	}
	if report.Policy>>19&1 == 1 {
		return refusef("debugging", "the policy lets the host debug the guest (%#x)", report.Policy)
	}
	if report.Policy>>18&1 == 1 {
		return refusef("migration", "the policy lets a migration agent move the guest (%#x)", report.Policy)
	}
	if report.Vmpl != 0 {
		return refusef("privilege level", "the report was asked for at VMPL %d, and not at 0", report.Vmpl)
	}
	return nil
}

// checkFirmware checks the firmware as reported, as it was when the guest was
// launched, and the one below which the host cannot go back any more.
func (e *Expect) checkFirmware(report *sevsnp.Report) error {
	for _, f := range []struct {
		name string
		tcb  uint64
	}{
		{"reported", report.ReportedTcb},
		{"current", report.CurrentTcb},
		{"committed", report.CommittedTcb},
		{"launch", report.LaunchTcb},
	} {
		t, err := e.Generation.tcb(f.tcb)
		if err != nil {
			return refusef("firmware", "%s: %w", f.name, err)
		}
		if name := t.short(e.MinTCB); name != "" {
			return refusef("firmware", "the %s one has too old a %s: %s, and at least %s is asked for", f.name, name, t, e.MinTCB)
		}
	}
	return nil
}

// checkDemands checks what the owner asks for and need not.
func (e *Expect) checkDemands(report *sevsnp.Report) error {
	for _, q := range e.Require {
		value := report.Policy
		if q.platform {
			value = report.PlatformInfo
		}
		if (value>>q.bit&1 == 1) != q.want {
			return refusef("requirements", "%s: not so, %s (%#x)", q.Name, q.Means, value)
		}
	}
	id := e.Generation.chip(report.ChipId)
	if len(e.Chips) > 0 && !slices.ContainsFunc(e.Chips, func(c []byte) bool { return bytes.Equal(c, id) }) {
		return refusef("chip", "%x is none of the expected ones", id)
	}
	for _, f := range []struct {
		check     string
		want, got []byte
	}{
		{"host data", e.HostData, report.HostData},
		{"ID key", e.IDKey, report.IdKeyDigest},
		{"family ID", e.FamilyID, report.FamilyId},
		{"image ID", e.ImageID, report.ImageId},
	} {
		if f.want != nil && !bytes.Equal(f.want, f.got) {
			return refusef(f.check, "it is %x, and not %x", f.got, f.want)
		}
	}
	return nil
}

// Requirement is a property that an owner may ask for.
type Requirement struct {
	Name, Means string
	platform    bool // a bit of PLATFORM_INFO, not of the guest's policy
	bit         int
	want        bool
}

// Requirements are what an owner may ask for beyond what always has to be (AMD
// publication 56860, tables of the guest policy and of PLATFORM_INFO).
var Requirements = []Requirement{
	{Name: "no-smt", Means: "the policy forbids two threads on a core", bit: 16, want: false},
	{Name: "single-socket", Means: "the policy keeps the guest on one socket", bit: 20, want: true},
	{Name: "no-cxl", Means: "the policy forbids CXL memory", bit: 21, want: false},
	{Name: "aes-256", Means: "the policy asks for AES-256-XTS in memory", bit: 22, want: true},
	{Name: "no-rapl", Means: "the policy asks for energy measurement to be off", bit: 23, want: true},
	{Name: "ciphertext-hiding", Means: "the policy asks for ciphertext in memory to be hidden", bit: 24, want: true},
	{Name: "no-page-swap", Means: "the policy forbids the host to swap pages", bit: 25, want: true},
	{Name: "alias-check", Means: "the platform has checked memory for aliases since its start", platform: true, bit: 5, want: true},
}

// RequirementNames returns the names of all.
func RequirementNames() []string {
	var names []string
	for _, r := range Requirements {
		names = append(names, r.Name)
	}
	return names
}

// FindRequirement returns the requirement of that name.
func FindRequirement(name string) (Requirement, error) {
	i := slices.IndexFunc(Requirements, func(r Requirement) bool { return r.Name == name })
	if i < 0 {
		return Requirement{}, fmt.Errorf("%.40q is not one of %s", name, strings.Join(RequirementNames(), ", "))
	}
	return Requirements[i], nil
}

// Verdict is what a verification says, for people and as JSON.
type Verdict struct {
	Match   bool   `json:"match"`
	Facts   *Facts `json:"reported,omitempty"` // of a guest that passed
	Check   string `json:"check,omitempty"`    // that it did not pass
	Problem string `json:"problem,omitempty"`
}

// NewVerdict describes what Verify returned.
func NewVerdict(f Facts, err error) Verdict {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return Verdict{Check: r.Check, Problem: r.Err.Error()}
	}
	if err != nil {
		return Verdict{Problem: err.Error()}
	}
	return Verdict{Match: true, Facts: &f}
}

// Print shows the verdict.
func (v Verdict) Print(w io.Writer) {
	if !v.Match {
		fmt.Fprintf(w, "refused for its %s: %s\n", v.Check, v.Problem)
		return
	}
	f := v.Facts
	fmt.Fprintf(w, "measured: launch digest %s\nchip:     %s %s\nfirmware: %s; policy %s\nreport:   %s\n",
		f.Measurement, f.Generation, f.ChipID, f.Firmware, f.Policy, f.ReportID)
}
