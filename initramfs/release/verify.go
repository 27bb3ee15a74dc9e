package release

import (
	"errors"
	"fmt"
	"slices"

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
