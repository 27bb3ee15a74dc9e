package snp

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"

	"cocoroot/initramfs/release/snptest"
	"cocoroot/unlock/release"
)

// firmware is what the chips of the tests have.
var firmware = snptest.TCB{FMC: 1, Bootloader: 10, TEE: 0, SNP: 0x20, Microcode: 84}

// digest is what the guests of the tests are measured as.
var digest = Digest{1, 2, 3}

// scene is a guest that should get its secrets, and its owner.
type scene struct {
	chip     *snptest.Chip
	owner    ed25519.PublicKey
	guest    hpke.PrivateKey
	expect   Expect
	evidence Evidence
	report   *sevsnp.Report               // to be changed before it is signed
	raw      func(report []byte)          // to change it then, or nil
	request  func(release.Request) []byte // to change the request after that, or nil
}

// chips are one of each generation, whose certificates take a while.
var chips = map[string]func() *snptest.Chip{}

func init() {
	for _, product := range []string{"Milan-B1", "Genoa-B1", "Turin-B1"} {
		chips[product] = sync.OnceValue(func() *snptest.Chip { return snptest.NewChip(product, firmware) })
	}
}

func newScene(t testing.TB, product string) *scene {
	t.Helper()
	s := &scene{chip: chips[product]()}
	s.owner, _, _ = ed25519.GenerateKey(nil)
	var err error
	if s.guest, err = hpke.MLKEM768X25519().GenerateKey(); err != nil {
		t.Fatal(err)
	}
	generation, err := FindGeneration(s.chip.Generation)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.expect = Expect{
		Owner: s.owner, Challenge: NewChallenge(now, time.Hour), Now: now.Add(time.Minute), Generation: generation,
		Digests: []Digest{{9}, digest}, MinTCB: generation.Floor,
		Roots: func(_ Generation, vlek bool) (ark, ask *x509.Certificate, err error) {
			if vlek {
				return s.chip.Ark, s.chip.Asvk, nil
			}
			return s.chip.Ark, s.chip.Ask, nil
		},
	}
	s.evidence.Key = s.chip.Vcek.Raw
	s.report = s.chip.Report()
	s.report.Measurement = digest[:]
	return s
}

// ask returns the guest's request.
func (s *scene) ask(t testing.TB) Request {
	t.Helper()
	r := release.Request{Challenge: [32]byte(s.expect.Challenge.Bytes), Public: s.guest.PublicKey().Bytes()}
	data := r.ReportData(s.owner)
	s.report.ReportData = data[:]
	r.Report = s.chip.Sign(s.report)
	if s.raw != nil {
		s.raw(r.Report)
	}
	body := r.Encode()
	if s.request != nil {
		body = s.request(r)
	}
	got, err := ParseRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A good guest of each generation is accepted, with either key.
func TestVerify(t *testing.T) {
	for _, product := range []string{"Milan-B1", "Genoa-B1", "Turin-B1"} {
		for _, vlek := range []bool{false, true} {
			s := newScene(t, product)
			if vlek {
				s.expect.VLEK, s.evidence.Key, s.report.SignerInfo = true, s.chip.Vlek.Raw, snptest.SignedByVLEK
			}
			f, err := Verify(s.expect, s.ask(t), s.evidence)
			if err != nil {
				t.Errorf("%s, VLEK %v: %v", product, vlek, err)
				continue
			}
			want := "fmc=0,bootloader=10,tee=0,snp=32,microcode=84"
			if product == "Turin-B1" {
				want = strings.Replace(want, "fmc=0", "fmc=1", 1)
			}
			if f.Firmware != want || f.Generation+"-B1" != product || !strings.HasPrefix(f.Measurement, "010203") {
				t.Errorf("%s: %+v; want firmware %s", product, f, want)
			}
		}
	}
}

// refusals are guests that get nothing, each for one reason.
var refusals = []struct {
	name, check string
	change      func(*testing.T, *scene)
}{
	{"report version 2", "version", func(_ *testing.T, s *scene) { s.report.Version = 2 }},
	{"report version 6", "version", func(_ *testing.T, s *scene) { s.report.Version = 6 }},
	{"another generation than named", "generation", func(t *testing.T, s *scene) { s.expect.Generation, _ = FindGeneration("Turin") }},
	{"an unknown processor", "generation", func(_ *testing.T, s *scene) { s.report.Cpuid1EaxFms = 0x00b50f00 }},
	{"signed with a VLEK", "signer", func(_ *testing.T, s *scene) { s.report.SignerInfo = snptest.SignedByVLEK }},
	{"signed with a VCEK where a VLEK is asked for", "signer", func(_ *testing.T, s *scene) { s.expect.VLEK = true }},
	{"not signed", "signer", func(_ *testing.T, s *scene) { s.raw = func(r []byte) { r[0x48] = 7 << 2 } }},
	{"no certificate", "certificate", func(_ *testing.T, s *scene) { s.evidence.Key = nil }},
	{"a certificate that is none", "certificate", func(_ *testing.T, s *scene) { s.evidence.Key = []byte("x") }},
	{"another root", "certificate", func(_ *testing.T, s *scene) { s.expect.Roots = nil }},
	{"the certificate of a VLEK", "certificate", func(_ *testing.T, s *scene) { s.evidence.Key = s.chip.Vlek.Raw }},
	{"the ASK as certificate", "certificate", func(_ *testing.T, s *scene) { s.evidence.Key = s.chip.Ask.Raw }},
	{"a changed certificate", "certificate", func(_ *testing.T, s *scene) {
		s.evidence.Key = bytes.Clone(s.evidence.Key)
		s.evidence.Key[len(s.evidence.Key)-1] ^= 1
	}},
	{"a certificate after its time", "certificate", func(_ *testing.T, s *scene) {
		s.expect.Now = s.expect.Now.AddDate(8, 0, 0)
		s.expect.Challenge.Expires = s.expect.Now
	}},
	{"a root that revoked the ASK", "revocation", func(t *testing.T, s *scene) { s.evidence.CRLs = [][]byte{s.chip.CRL(s.chip.Ask.SerialNumber.Int64())} }},
	{"a changed list", "revocation", func(_ *testing.T, s *scene) {
		list := s.chip.CRL()
		list[len(list)-1] ^= 1
		s.evidence.CRLs = [][]byte{list}
	}},
	{"a list out of date", "revocation", func(t *testing.T, s *scene) {
		s.evidence.CRLs = [][]byte{s.chip.CRL()}
		s.expect.Now = s.expect.Now.Add(48 * time.Hour)
		s.expect.Challenge.Expires = s.expect.Now
	}},
	{"a list that is none", "revocation", func(_ *testing.T, s *scene) { s.evidence.CRLs = [][]byte{nil} }},
	{"a report that was changed", "signature", func(_ *testing.T, s *scene) { s.raw = func(r []byte) { r[0x90] ^= 1 } }},
	{"a changed signature", "signature", func(_ *testing.T, s *scene) { s.raw = func(r []byte) { r[0x2a0] ^= 1 } }},
	{"no signature", "signature", func(_ *testing.T, s *scene) { s.raw = func(r []byte) { clear(r[0x2a0:]) } }},
	{"another algorithm", "signature", func(_ *testing.T, s *scene) { s.raw = func(r []byte) { r[0x34] = 2 } }},
	{"another chip's report", "signature", func(t *testing.T, s *scene) {
		id := s.chip.ID
		s.chip = snptest.NewChip("Genoa-B1", firmware)
		s.report.ChipId = id
	}},
	{"a hidden chip", "certified chip", func(_ *testing.T, s *scene) { s.report.ChipId = make([]byte, 64) }},
	{"a report of another chip", "certified chip", func(_ *testing.T, s *scene) {
		s.report.ChipId = bytes.Clone(s.report.ChipId)
		s.report.ChipId[63]++
	}},
	{"a report of other firmware", "certified firmware", func(_ *testing.T, s *scene) { s.report.ReportedTcb++ }},
	{"firmware of another layout", "certified firmware", func(_ *testing.T, s *scene) { s.report.ReportedTcb |= 1 << 24 }},
	{"another challenge", "challenge", func(_ *testing.T, s *scene) {
		other := NewChallenge(s.expect.Now, time.Hour)
		ours := s.expect.Challenge
		s.expect.Challenge = other
		s.request = func(r release.Request) []byte { r.Challenge = [32]byte(ours.Bytes); return r.Encode() }
	}},
	{"a challenge 20 hours old", "challenge", func(_ *testing.T, s *scene) { s.expect.Now = s.expect.Now.Add(20 * time.Hour) }},
	{"a challenge of the future", "challenge", func(_ *testing.T, s *scene) { s.expect.Now = s.expect.Now.Add(-time.Hour) }},
	{"another public key", "report data", func(t *testing.T, s *scene) {
		s.request = func(r release.Request) []byte {
			k, err := hpke.MLKEM768X25519().GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			r.Public = k.PublicKey().Bytes()
			return r.Encode()
		}
	}},
	{"another owner", "report data", func(_ *testing.T, s *scene) { s.expect.Owner = make([]byte, 32) }},
	{"another measurement", "measurement", func(_ *testing.T, s *scene) { s.report.Measurement = make([]byte, 48) }},
	{"no measurement expected", "measurement", func(_ *testing.T, s *scene) { s.expect.Digests = nil }},
	{"debugging", "debugging", func(_ *testing.T, s *scene) { s.report.Policy |= 1 << 19 }},
	{"migration", "migration", func(_ *testing.T, s *scene) { s.report.Policy |= 1 << 18 }},
	{"a policy with unknown bits", "form", func(_ *testing.T, s *scene) {
		s.raw = func(r []byte) { binary.LittleEndian.PutUint64(r[8:], 0x30000|1<<40) }
	}},
	{"reserved bytes", "form", func(_ *testing.T, s *scene) { s.raw = func(r []byte) { r[0x4c] = 1 } }},
	{"VMPL 1", "privilege level", func(_ *testing.T, s *scene) { s.report.Vmpl = 1 }},
	{"old firmware reported", "firmware", func(_ *testing.T, s *scene) { s.expect.MinTCB[3] = 0x21 }},
	{"old microcode", "firmware", func(_ *testing.T, s *scene) { s.expect.MinTCB[4] = 85 }},
	{"old firmware runs", "firmware", func(_ *testing.T, s *scene) { s.report.CurrentTcb -= 5 << 48 }},
	{"old firmware committed", "firmware", func(_ *testing.T, s *scene) { s.report.CommittedTcb -= 5 << 48 }},
	{"old firmware at the launch", "firmware", func(_ *testing.T, s *scene) { s.report.LaunchTcb -= 5 << 48 }},
	{"launch firmware of another layout", "firmware", func(_ *testing.T, s *scene) { s.report.LaunchTcb |= 1 << 16 }},
	{"no-smt", "requirements", require("no-smt", 0)},
	{"single-socket", "requirements", require("single-socket", 0)},
	{"no-cxl", "requirements", require("no-cxl", 1<<21)},
	{"aes-256", "requirements", require("aes-256", 0)},
	{"no-rapl", "requirements", require("no-rapl", 0)},
	{"ciphertext-hiding", "requirements", require("ciphertext-hiding", 0)},
	{"no-page-swap", "requirements", require("no-page-swap", 0)},
	{"alias-check", "requirements", require("alias-check", 0)},
	{"a chip that is not named", "chip", func(_ *testing.T, s *scene) { s.expect.Chips = [][]byte{make([]byte, 64)} }},
	{"other HOST_DATA", "host data", func(_ *testing.T, s *scene) { s.expect.HostData = bytes.Repeat([]byte{1}, 32) }},
	{"another ID key", "ID key", func(_ *testing.T, s *scene) { s.expect.IDKey = bytes.Repeat([]byte{1}, 48) }},
	{"another family", "family ID", func(_ *testing.T, s *scene) { s.expect.FamilyID = bytes.Repeat([]byte{1}, 16) }},
	{"another image", "image ID", func(_ *testing.T, s *scene) { s.expect.ImageID = bytes.Repeat([]byte{1}, 16) }},
}

func require(name string, policy uint64) func(*testing.T, *scene) {
	return func(t *testing.T, s *scene) {
		r, err := FindRequirement(name)
		if err != nil {
			t.Fatal(err)
		}
		s.expect.Require = []Requirement{r}
		s.report.Policy |= policy
	}
}

// Each check refuses on its own, and every check has a case.
func TestVerifyRefuses(t *testing.T) {
	code, err := os.ReadFile("verify.go")
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{"host data": true, "ID key": true, "family ID": true, "image ID": true}
	for _, check := range regexp.MustCompile(`refusef\("(.+?)"`).FindAllSubmatch(code, -1) {
		missing[string(check[1])] = true
	}
	if len(missing) < 22 {
		t.Fatalf("verify.go has the checks %v", missing)
	}
	for _, tc := range refusals {
		s := newScene(t, "Genoa-B1")
		tc.change(t, s)
		facts, err := Verify(s.expect, s.ask(t), s.evidence)
		var r *Refusal
		if !errors.As(err, &r) || r.Check != tc.check || facts != (Facts{}) {
			t.Errorf("%s: %+v, %v; want a refusal for its %s", tc.name, facts, err, tc.check)
		}
		delete(missing, tc.check)
	}
	for name := range missing {
		t.Errorf("no case for the check of the %s", name)
	}
}

// What may be demanded is met by a guest that has it.
func TestVerifyDemands(t *testing.T) {
	s := newScene(t, "Genoa-B1")
	s.report.Policy = 0x20000 | 1<<20 | 1<<22 | 1<<23 | 1<<24 | 1<<25
	s.report.PlatformInfo = 1 << 5
	s.report.HostData = bytes.Repeat([]byte{1}, 32)
	s.report.IdKeyDigest = bytes.Repeat([]byte{2}, 48)
	s.report.FamilyId = bytes.Repeat([]byte{3}, 16)
	s.report.ImageId = bytes.Repeat([]byte{4}, 16)
	e := &s.expect
	e.Require, e.Chips = Requirements, [][]byte{make([]byte, 64), s.chip.ID}
	e.HostData, e.IDKey, e.FamilyID, e.ImageID = s.report.HostData, s.report.IdKeyDigest, s.report.FamilyId, s.report.ImageId
	s.evidence.CRLs = [][]byte{s.chip.CRL()}
	if _, err := Verify(s.expect, s.ask(t), s.evidence); err != nil {
		t.Error(err)
	}
}

// On Turin a chip has an ID of 8 bytes, and other firmware's versions.
func TestVerifyTurin(t *testing.T) {
	for name, tc := range map[string]struct {
		check  string
		change func(*scene)
	}{
		"more than 8 bytes of chip": {"certified chip", func(s *scene) {
			s.report.ChipId = bytes.Clone(s.report.ChipId)
			s.report.ChipId[8] = 1
		}},
		"other FMC":  {"certified firmware", func(s *scene) { s.report.ReportedTcb++ }},
		"old FMC":    {"firmware", func(s *scene) { s.expect.MinTCB[0] = 2 }},
		"old SNP":    {"firmware", func(s *scene) { s.report.LaunchTcb -= 1 << 24; s.expect.MinTCB[3] = 0x20 }},
		"other chip": {"chip", func(s *scene) { s.expect.Chips = [][]byte{make([]byte, 8)} }},
		"good chip":  {"", func(s *scene) { s.expect.Chips = [][]byte{s.chip.ID[:8]} }},
	} {
		s := newScene(t, "Turin-B1")
		tc.change(s)
		_, err := Verify(s.expect, s.ask(t), s.evidence)
		var r *Refusal
		if tc.check == "" && err != nil || tc.check != "" && (!errors.As(err, &r) || r.Check != tc.check) {
			t.Errorf("%s: %v; want a refusal for its %q", name, err, tc.check)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	s := newScene(b, "Genoa-B1")
	r := s.ask(b)
	s.evidence.CRLs = [][]byte{s.chip.CRL()}
	for b.Loop() {
		if _, err := Verify(s.expect, r, s.evidence); err != nil {
			b.Fatal(err)
		}
	}
}
