// Package release gives a launched SEV or SEV-ES guest its secrets, in three
// steps: Collect asks QEMU on the host for the launch measurement, Verify
// compares it at the owner's with what he expects, Inject hands QEMU the
// packet that he made then.
//
// The host is the attacker. All that Collect brings is his word until Verify
// has found the security processor's MAC over it, and what Inject sends is
// encrypted for that processor. Nothing here says what the guest does with its
// secrets. SEV-SNP has neither this measurement nor this injection.
package release

import (
	"errors"
	"fmt"

	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/strictjson"
)

// MaxReport bounds a report in bytes.
const MaxReport = 16 << 10

var errReport = errors.New("not a launch report")

// Report is what the host says of a launch. It holds no secret.
type Report struct {
	Version     int                 `json:"version"`
	Kind        string              `json:"kind,omitempty"` // none is "sev"
	APIMajor    uint8               `json:"api_major"`
	APIMinor    uint8               `json:"api_minor"`
	Build       uint8               `json:"build"`
	Policy      session.Policy      `json:"policy"`
	Measurement session.Measurement `json:"measurement"` // base64, as QEMU's
}

// API returns the firmware's version.
func (r Report) API() session.API {
	return session.API{Major: r.APIMajor, Minor: r.APIMinor, Build: r.Build}
}

// Encode returns the report's file.
func (r Report) Encode() ([]byte, error) {
	return strictjson.Encode(r)
}

// ParseReport reads a report, which the host wrote.
func ParseReport(b []byte) (Report, error) {
	var r Report
	if err := strictjson.DecodeKind(b, MaxReport, &r, packet.Kind, ""); err != nil {
		return Report{}, fmt.Errorf("%w: %w", errReport, err)
	}
	if r.Measurement == (session.Measurement{}) {
		return Report{}, fmt.Errorf("%w: no measurement", errReport)
	}
	return r, nil
}
