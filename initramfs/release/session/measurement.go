package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// MeasurementSize is the size in bytes of a measurement as QEMU hands it out.
const MeasurementSize = 48

// ErrMeasurement is returned for what is not a measurement.
var ErrMeasurement = errors.New("a launch measurement has 48 bytes, in base64 64 characters")

// Measurement is what LAUNCH_MEASURE returns: a MAC over the launch digest,
// never the digest itself, and the PSP's nonce, new at every launch.
type Measurement struct {
	MAC   [sha256.Size]byte
	Nonce [16]byte
}

// ParseMeasurement reads the base64 of query-sev-launch-measure.
func ParseMeasurement(s string) (m Measurement, err error) {
	err = m.UnmarshalText([]byte(s))
	return m, err
}

// String returns the base64 that ParseMeasurement reads.
func (m Measurement) String() string {
	return base64.StdEncoding.EncodeToString(append(m.MAC[:], m.Nonce[:]...))
}

// MarshalText implements encoding.TextMarshaler.
func (m Measurement) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Measurement) UnmarshalText(text []byte) error {
	if len(text) != base64.StdEncoding.EncodedLen(MeasurementSize) {
		return ErrMeasurement
	}
	b, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMeasurement, err)
	}
	if len(b) != MeasurementSize { // line breaks are skipped, padding is no byte
		return ErrMeasurement
	}
	copy(m.MAC[:], b)
	copy(m.Nonce[:], b[len(m.MAC):])
	return nil
}

// API is the version of the PSP's firmware: API version and build.
type API struct {
	Major, Minor, Build uint8
}

// String returns MAJOR.MINOR build BUILD.
func (a API) String() string { return fmt.Sprintf("%d.%d build %d", a.Major, a.Minor, a.Build) }

// Digest is a launch digest of SEV or SEV-ES.
type Digest [sha256.Size]byte

// Authentic reports whether the measurement is the PSP's, for a guest of this
// digest under this policy, on firmware of this version. The three are the
// host's words until then, and true afterwards.
//
// The MAC that would be right must not be shown to anyone: whoever has it can
// answer for a guest that was not measured.
func (m Measurement) Authentic(keys *Keys, api API, policy Policy, digest Digest) bool {
	const context = 0x04 // what begins the MAC of a measurement
	want := keys.MAC([]byte{context, api.Major, api.Minor, api.Build}, policy.bytes(), digest[:], m.Nonce[:])
	return hmac.Equal(want[:], m.MAC[:])
}
