package release

import (
	"errors"
	"fmt"

	"cocoroot/initramfs/release/session"
)

// Why a report is not accepted.
var (
	ErrMeasurement = errors.New("the measurement is of none of the expected launch digests")
	ErrPolicy      = errors.New("the guest's policy allows more than it may")
	ErrVersion     = errors.New("the platform's firmware is older than demanded")
)

// Expectation is what a report has to meet.
type Expectation struct {
	Digests []session.Digest // one of them
	Policy  session.Policy   // bits that have to be set
	// API is the least version; Build counts on its own, as it is numbered
	// across versions. Zero demands nothing.
	MinMajor, MinMinor, MinBuild uint8
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
	if r.APIMajor < e.MinMajor || r.APIMajor == e.MinMajor && r.APIMinor < e.MinMinor {
		return session.Digest{}, fmt.Errorf("%w: it is %s, not at least %d.%d", ErrVersion, r.API(), e.MinMajor, e.MinMinor)
	}
	if r.Build < e.MinBuild {
		return session.Digest{}, fmt.Errorf("%w: it is %s, not at least build %d", ErrVersion, r.API(), e.MinBuild)
	}
	return e.Digests[measured], nil
}
