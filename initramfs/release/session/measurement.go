// Package session has the owner's secure channel to a platform's security
// processor (PSP): the two transport keys, the guest's policy, the session blob
// that carries the keys into LAUNCH_START, and the check of the launch
// measurement that comes back under one of them.
//
// The formats are those of the SEV API specification (AMD publication 55766):
// guest policy structure, LAUNCH_START and LAUNCH_MEASURE. All numbers are
// little-endian.
//
// It does not protect against a platform whose certificate chain was not
// verified (package sevcert does that), nor against code that reads this
// process's memory while it computes: the standard library's HMAC, AES and
// ECDH keep working copies of keys outside locked memory.
package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Policy is what the PSP enforces on a guest for as long as it lives
// (SEV API, guest policy structure).
type Policy uint32

// The bits of a policy that decide something here. Bits 3, 4 and 5 keep the
// guest from being migrated away at all, out of the owner's domain, and to
// anything but an SEV platform; bits 16-23 and 24-31 are the least API version,
// major and minor, of a platform that it may run on.
const (
	NoDebug        Policy = 1 << 0 // the host cannot decrypt the guest's memory by asking
	NoKeySharing   Policy = 1 << 1 // no other guest may use the same memory key
	EncryptedState Policy = 1 << 2 // SEV-ES: registers are encrypted
)

// Strict is the policy that a guest should have at least.
const Strict = NoDebug | NoKeySharing | EncryptedState

// ErrPolicy is returned for a text that is not a policy.
var ErrPolicy = errors.New("not a policy: a number of 32 bits, such as 0x7")

// ParsePolicy reads a number in decimal or, with 0x, in hex.
func ParsePolicy(s string) (Policy, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: %.32q", ErrPolicy, s)
	}
	return Policy(n), nil
}

// Has reports whether all of the bits are set.
func (p Policy) Has(bits Policy) bool { return p&bits == bits }

// String returns the number and the names of the bits.
func (p Policy) String() string {
	var names []string
	for i, n := range [...]string{"NODBG", "NOKS", "ES", "NOSEND", "DOMAIN", "SEV"} {
		if p.Has(1 << i) {
			names = append(names, n)
		}
	}
	if p>>16 != 0 {
		names = append(names, fmt.Sprintf("API %d.%d", p>>16&0xff, p>>24))
	}
	return fmt.Sprintf("%#x (%s)", uint32(p), strings.Join(names, " "))
}

// bytes is the policy as the PSP authenticates it.
func (p Policy) bytes() []byte {
	return binary.LittleEndian.AppendUint32(nil, uint32(p))
}

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
