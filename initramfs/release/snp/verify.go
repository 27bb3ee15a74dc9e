package snp

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
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

	Roots Roots // of tests; nil is AMD's, and nothing else is to be had from the command line
}

// Evidence are the certificates that go with a report. They are believed only as
// far as AMD's root says.
type Evidence struct {
	Key  []byte // VCEK or VLEK, DER or PEM
	CRLs [][]byte
}

// Refusal says which check a guest did not pass.
type Refusal struct {
	Check string // its name, as in Checks
	Err   error
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v", r.Check, r.Err) }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }

func refusef(check, format string, args ...any) error {
	return &Refusal{check, fmt.Errorf(format, args...)}
}

// subject is what is being checked.
type subject struct {
	*Expect
	Evidence
	request       Request
	report        *sevsnp.Report
	key, ask, ark *x509.Certificate
	says          endorsement
}

// checks are what a guest has to pass, in this order: what comes before the
// signature is nobody's word, and only looked at to find out whose key it is.
var checks = []struct {
	name string
	run  func(*subject) error
}{
	{"version", (*subject).checkVersion},
	{"generation", (*subject).checkGeneration},
	{"signer", (*subject).checkSigner},
	{"certificate", (*subject).checkCertificate},
	{"revocation", (*subject).checkRevocation},
	{"signature", (*subject).checkSignature},
	{"certified chip", (*subject).checkCertifiedChip},
	{"certified firmware", (*subject).checkCertifiedTCB},
	{"challenge", (*subject).checkChallenge},
	{"report data", (*subject).checkReportData},
	{"measurement", (*subject).checkMeasurement},
	{"debugging", func(s *subject) error { return s.forbids(19, "the host debug the guest") }},
	{"migration", func(s *subject) error { return s.forbids(18, "a migration agent move the guest") }},
	{"privilege level", (*subject).checkVMPL},
	{"firmware", (*subject).checkTCB},
	{"requirements", (*subject).checkRequirements},
	{"chip", (*subject).checkChip},
	{"host data", func(s *subject) error { return same(s.HostData, s.report.HostData) }},
	{"ID key", func(s *subject) error { return same(s.IDKey, s.report.IdKeyDigest) }},
	{"family ID", func(s *subject) error { return same(s.FamilyID, s.report.FamilyId) }},
	{"image ID", func(s *subject) error { return same(s.ImageID, s.report.ImageId) }},
}

// Verify checks that a request comes from a guest that meets the expectation. The
// error is a *Refusal for a guest that does not.
func Verify(e Expect, r Request, v Evidence) (Facts, error) {
	report, err := abi.ReportToProto(r.Report)
	if err != nil {
		return Facts{}, refusef("form", "the report cannot be read: %w", err)
	}
	s := &subject{Expect: &e, Evidence: v, request: r, report: report}
	for _, c := range checks {
		if err := c.run(s); err != nil {
			return Facts{}, &Refusal{c.name, err}
		}
	}
	return s.facts(), nil
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

func (s *subject) facts() Facts {
	tcb, _ := s.Generation.tcb(s.report.ReportedTcb)
	return Facts{s.Generation.Name, hex.EncodeToString(s.report.Measurement), fmt.Sprintf("%#x", s.report.Policy), tcb.String(),
		hex.EncodeToString(s.Generation.chip(s.report.ChipId)), hex.EncodeToString(s.report.ReportId)}
}

// checkVersion refuses version 2, which does not say what processor it is of, and
// those whose layout is not known.
func (s *subject) checkVersion() error {
	if v := s.report.Version; v < abi.ReportVersion3 || v > abi.ReportVersion5 {
		return fmt.Errorf("the report is of version %d, and 3 to 5 are known; firmware that reports 2 is too old", v)
	}
	return nil
}

func (s *subject) checkGeneration() error {
	family, model := s.request.Report[0x188], s.request.Report[0x189]
	if s.Generation.has(family, model) {
		return nil
	}
	for _, g := range generations {
		if g.has(family, model) {
			return fmt.Errorf("the processor is of %s, and not of %s", g.Name, s.Generation.Name)
		}
	}
	return fmt.Errorf("the processor is of family %#x, model %#x, and not of %s", family, model, s.Generation.Name)
}

func (s *subject) checkSigner() error {
	signer, err := abi.ParseSignerInfo(s.report.SignerInfo)
	if want := s.wantSigner(); err == nil && signer.SigningKey != want {
		err = fmt.Errorf("the report is signed with a %s, and not with a %s", signer.SigningKey, want)
	}
	return err
}

func (s *subject) wantSigner() abi.ReportSigner {
	if s.VLEK {
		return abi.VlekReportSigner
	}
	return abi.VcekReportSigner
}

// checkCertificate verifies the chain from the key up to AMD's root.
func (s *subject) checkCertificate() (err error) {
	if s.key, err = parseCertificate(s.Key); err != nil {
		return fmt.Errorf("the %s's certificate cannot be read: %w", s.wantSigner(), err)
	}
	if s.ark, s.ask, err = s.Roots.of(s.Generation, s.VLEK); err != nil {
		return err
	}
	chain := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: s.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	chain.Roots.AddCert(s.ark)
	chain.Intermediates.AddCert(s.ask)
	if _, err := s.key.Verify(chain); err != nil {
		return fmt.Errorf("the %s is not AMD's of %s: %w", s.wantSigner(), s.Generation.Name, err)
	}
	if name := "SEV-" + s.wantSigner().String(); s.key.Subject.CommonName != name || s.key.IsCA {
		return fmt.Errorf("the certificate is of %.40q, and not of %s", s.key.Subject.CommonName, name)
	}
	if s.says, err = s.Generation.endorses(s.key); err != nil {
		return fmt.Errorf("the %s is not AMD's of %s: %w", s.wantSigner(), s.Generation.Name, err)
	}
	return nil
}

func (s *subject) checkRevocation() error {
	for _, list := range s.CRLs {
		if err := checkCRL(list, s.ark, s.ask, s.Now); err != nil {
			return err
		}
	}
	return nil
}

func (s *subject) checkSignature() error {
	if err := verify.SnpReportSignature(s.request.Report, s.key); err != nil {
		return fmt.Errorf("the report is not signed by the certificate's key: %w", err)
	}
	return nil
}

// checkCertifiedChip checks that the certificate is this chip's. A host may hide
// its chip's ID; then nothing says which chip it is.
func (s *subject) checkCertifiedChip() error {
	if s.VLEK {
		return nil // it is a cloud's, for all of its chips
	}
	id := s.report.ChipId
	if bytes.Equal(id, make([]byte, len(id))) {
		return errors.New("the host hides the chip's ID (MASK_CHIP_ID)")
	}
	named := s.Generation.chip(id)
	if !bytes.Equal(s.says.chip, named) || !bytes.Equal(id[len(named):], make([]byte, len(id)-len(named))) {
		return fmt.Errorf("the report is of the chip %x, and the certificate of %x", id, s.says.chip)
	}
	return nil
}

func (s *subject) checkCertifiedTCB() error {
	reported, err := s.Generation.tcb(s.report.ReportedTcb)
	if err == nil && reported != s.says.tcb {
		err = fmt.Errorf("the report is of %s, and the certificate of %s", reported, s.says.tcb)
	}
	return err
}

func (s *subject) checkChallenge() error {
	if !bytes.Equal(s.request.Challenge[:], s.Challenge.Bytes) {
		return errors.New("the request answers another one")
	}
	return s.Challenge.fresh(s.Now)
}

func (s *subject) checkReportData() error {
	if want := s.request.ReportData(s.Owner); !bytes.Equal(s.report.ReportData, want[:]) {
		return errors.New("the report is not over this challenge, public key and owner: the request was changed, or the guest has another owner's key in its command line")
	}
	return nil
}

func (s *subject) checkMeasurement() error {
	if !slices.Contains(s.Digests, Digest(s.report.Measurement)) {
		return fmt.Errorf("it is %x, which is none of the expected ones", s.report.Measurement)
	}
	return nil
}

func (s *subject) forbids(bit int, what string) error {
	if s.report.Policy>>bit&1 == 1 {
		return fmt.Errorf("the policy lets %s (%#x)", what, s.report.Policy)
	}
	return nil
}

// checkVMPL refuses what asked from less than the guest's highest privilege, such
// as a kernel under an SVSM. It does not tell init from what root runs later in the
// same guest: both ask from here.
func (s *subject) checkVMPL() error {
	if s.report.Vmpl != 0 {
		return fmt.Errorf("the report was asked for at VMPL %d, and not at 0", s.report.Vmpl)
	}
	return nil
}

// checkTCB checks the firmware as reported, as it was when the guest was
// launched, and the one below which the host cannot go back any more.
func (s *subject) checkTCB() error {
	for _, f := range []struct {
		name string
		tcb  uint64
	}{
		{"reported", s.report.ReportedTcb},
		{"current", s.report.CurrentTcb},
		{"committed", s.report.CommittedTcb},
		{"launch", s.report.LaunchTcb},
	} {
		t, err := s.Generation.tcb(f.tcb)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if name := t.short(s.MinTCB); name != "" {
			return fmt.Errorf("the %s one has too old a %s: %s, and at least %s is asked for", f.name, name, t, s.MinTCB)
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

func (s *subject) checkRequirements() error {
	for _, r := range s.Require {
		value := s.report.Policy
		if r.platform {
			value = s.report.PlatformInfo
		}
		if (value>>r.bit&1 == 1) != r.want {
			return fmt.Errorf("%s: not so, %s (%#x)", r.Name, r.Means, value)
		}
	}
	return nil
}

func (s *subject) checkChip() error {
	id := s.Generation.chip(s.report.ChipId)
	if len(s.Chips) > 0 && !slices.ContainsFunc(s.Chips, func(c []byte) bool { return bytes.Equal(c, id) }) {
		return fmt.Errorf("%x is none of the expected ones", id)
	}
	return nil
}

func same(want, got []byte) error {
	if want != nil && !bytes.Equal(want, got) {
		return fmt.Errorf("it is %x, and not %x", got, want)
	}
	return nil
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
