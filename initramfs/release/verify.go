package release

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"cocoroot/initramfs/release/session"
)

// Errors returned by Verify.
var (
	ErrMeasurement = errors.New("the measurement is of none of the expected launch digests")
	ErrPolicy      = errors.New("the guest's policy allows more than it may")
	ErrVersion     = errors.New("the platform's firmware is older than demanded")
)

// Expectation is what a report has to meet.
type Expectation struct {
	Digests []session.Digest // one of them
	Policy  session.Policy   // bits that have to be set
	// MinAPI is the least version, major and minor; MinBuild counts on its own,
	// as builds are numbered across versions. Zero demands nothing.
	MinAPI   [2]uint8
	MinBuild uint8
}

// Verify returns the digest that the security processor measured. When the
// measurement is none of the expected ones, the rest of the report is nothing
// but the host's word, and is not looked at.
func Verify(r Report, keys *session.Keys, e Expectation) (session.Digest, error) {
	measured := -1
	for i, d := range e.Digests {
		if r.Measurement.Authentic(keys, r.API(), r.Policy, d) {
			measured = i
		}
	}
	if measured < 0 {
		return session.Digest{}, ErrMeasurement
	}
	if missing := e.Policy &^ r.Policy; missing != 0 {
		return session.Digest{}, fmt.Errorf("%w: it is %s, and lacks %s", ErrPolicy, r.Policy, missing)
	}
	if slices.Compare([]uint8{r.APIMajor, r.APIMinor}, e.MinAPI[:]) < 0 {
		return session.Digest{}, fmt.Errorf("%w: it is %s, not at least %d.%d", ErrVersion, r.API(), e.MinAPI[0], e.MinAPI[1])
	}
	if r.Build < e.MinBuild {
		return session.Digest{}, fmt.Errorf("%w: it is %s, not at least build %d", ErrVersion, r.API(), e.MinBuild)
	}
	return e.Digests[measured], nil
}

// Verdict is what a verification says, for people and as JSON.
type Verdict struct {
	Match    bool     `json:"match"`
	Expected []string `json:"expected_digests"`
	Digest   string   `json:"digest,omitempty"` // the one that was measured
	Reported Report   `json:"reported"`
	Problem  string   `json:"problem,omitempty"`
	Causes   []string `json:"causes,omitempty"`
}

// causes are why a measurement mostly differs.
var causes = [...]string{
	"another firmware, kernel, initrd or command line than cocoroot measure was given (a newline, a byte)",
	"kernel-hashes=on is missing in -object sev-guest, or the digest was computed without a kernel",
	"a QEMU that patches the kernel's setup header before it hashes it",
	"SEV-ES: another number or type of vCPUs, or legacy instead of init2 (cocoroot measure --vm-type)",
	"a report of another launch or session: --tik must be the key that this guest was started with",
	"a host that changed policy, version or measurement in the report",
}

// NewVerdict describes what Verify returned.
func NewVerdict(r Report, e Expectation, digest session.Digest, err error) Verdict {
	v := Verdict{Match: err == nil, Reported: r}
	for _, d := range e.Digests {
		v.Expected = append(v.Expected, hex.EncodeToString(d[:]))
	}
	if err != nil {
		v.Problem = err.Error()
	} else {
		v.Digest = hex.EncodeToString(digest[:])
	}
	if errors.Is(err, ErrMeasurement) {
		v.Causes = causes[:]
	}
	return v
}

// Print shows expectation and report. The MAC that would have been right is
// not among it: with that, the host could answer for any guest.
func (v Verdict) Print(w io.Writer) {
	for _, d := range v.Expected {
		fmt.Fprintf(w, "expected: launch digest %s\n", d)
	}
	fmt.Fprintf(w, "reported: firmware %s, policy %s, measurement %s\n", v.Reported.API(), v.Reported.Policy, v.Reported.Measurement)
	if v.Match {
		fmt.Fprintf(w, "measured: launch digest %s\n", v.Digest)
		return
	}
	fmt.Fprintf(w, "mismatch: %s\n", v.Problem)
	if len(v.Causes) == 0 {
		return
	}
	fmt.Fprintln(w, "the platform reports a MAC over the digest, never the digest itself; mostly it differs because of")
	for _, c := range v.Causes {
		fmt.Fprintf(w, "  - %s\n", c)
	}
}
