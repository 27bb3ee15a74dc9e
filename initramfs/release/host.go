package release

import (
	"context"
	"errors"
	"fmt"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/strictjson"
)

// Errors returned by Collect, Inject and QueryPlatform, with what to do.
var (
	ErrNoSEV = fault.Hintf(errors.New("the guest runs without SEV"),
		"start QEMU with KVM, -object sev-guest,… and -machine confidential-guest-support=…")
	errSNP = fault.Hintf(errors.New("the guest is an SEV-SNP one, which has no LAUNCH_SECRET"),
		"a guest that was sealed with --owner asks for its secrets: use --channel, and not --qmp")
	errEarly = fault.Hintf(errors.New("the guest has not been measured yet"),
		"the machine is not set up yet; try again in a moment")
	errLate = fault.Hintf(errors.New("the guest has been started already"),
		"start QEMU with -S; a guest that runs takes no secret any more and has to be launched again")
	errOtherLaunch = fault.New(fault.Secret, errors.New("the packet is for another launch"),
		"each launch has a measurement of its own: collect and verify again")
	// errRefused means that QEMU or the security processor did not take it.
	errRefused = fault.New(fault.Secret, errors.New("the packet was refused"),
		"fw_error 11 is a packet for another launch or session; \"no secret area\" is a firmware other than OVMF AmdSev")
	// errUnknown means that the connection ended before the answer.
	errUnknown = fault.Hintf(errors.New("it is not known whether the secret arrived"),
		"end this guest and launch it again; a new launch needs a new packet")
)

// Collect asks QEMU for the report of a guest that waits for its secret,
// started with -S.
func Collect(ctx context.Context, c *qmp.Client) (Report, error) {
	r, err := query(ctx, c)
	if err != nil {
		return Report{}, err
	}
	var m struct{ Data string }
	if err := c.Execute(ctx, "query-sev-launch-measure", nil, &m); err != nil {
		return Report{}, err
	}
	if r.Measurement, err = session.ParseMeasurement(m.Data); err != nil {
		return Report{}, fmt.Errorf("cannot use QEMU's answer: %w", err)
	}
	return r, nil
}

// query reads everything but the measurement, and checks that the guest is in
// the one state in which it can be had.
func query(ctx context.Context, c *qmp.Client) (Report, error) {
	var info struct {
		Enabled  bool   `json:"enabled"`
		Type     string `json:"sev-type"` // "" before QEMU 9.1, which knew only SEV
		State    string `json:"state"`
		APIMajor uint8  `json:"api-major"`
		APIMinor uint8  `json:"api-minor"`
		Build    uint8  `json:"build-id"`
		Policy   uint32 `json:"policy"`
	}
	err := c.Execute(ctx, "query-sev", nil, &info)
	if refused, ok := errors.AsType[*qmp.Error](err); ok {
		return Report{}, fmt.Errorf("%w: %w", ErrNoSEV, refused)
	}
	switch {
	case err != nil:
		return Report{}, err
	case !info.Enabled:
		return Report{}, ErrNoSEV
	case info.Type == "sev-snp":
		return Report{}, errSNP
	case info.Type != "" && info.Type != "sev":
		return Report{}, fmt.Errorf("%w: it is of the type %.32q", ErrNoSEV, info.Type)
	case info.State == "uninit" || info.State == "launch-update":
		return Report{}, fmt.Errorf("%w: state %s", errEarly, info.State)
	case info.State != "launch-secret":
		return Report{}, fmt.Errorf("%w: state %.32q", errLate, info.State)
	}
	return Report{Version: strictjson.Version, Kind: packet.Kind, APIMajor: info.APIMajor, APIMinor: info.APIMinor, Build: info.Build,
		Policy: session.Policy(info.Policy)}, nil
}

// Inject sends a packet to the guest whose measurement it was made for. QEMU
// puts it where OVMF's footer says. The guest stays stopped.
func Inject(ctx context.Context, c *qmp.Client, p packet.Packet) error {
	now, err := Collect(ctx, c)
	if err != nil {
		return err
	}
	if now.Measurement != p.Measurement {
		return fmt.Errorf("cannot inject: %w", errOtherLaunch)
	}
	err = c.Execute(ctx, "sev-inject-launch-secret", injection(p), nil)
	if refused, ok := errors.AsType[*qmp.Error](err); ok {
		return fmt.Errorf("cannot inject: %w: %w", errRefused, refused)
	}
	if err != nil {
		// Not wrapped: after an interrupt, this is not "nothing was written".
		return fmt.Errorf("cannot inject: %w: %v", errUnknown, err)
	}
	return nil
}

// injection are the arguments of sev-inject-launch-secret, in base64 in JSON.
func injection(p packet.Packet) map[string][]byte {
	return map[string][]byte{"packet-header": p.Header, "secret": p.Secret}
}

// Continue starts the guest.
func Continue(ctx context.Context, c *qmp.Client) error {
	return c.Execute(ctx, "cont", nil, nil)
}

// Platform is what QEMU says of the host's security processor. Its
// certificates have to be verified.
type Platform struct {
	PDH    []byte `json:"pdh"`
	Chain  []byte `json:"cert-chain"` // PEK, OCA and CEK, the last one without AMD's signature
	CPU0ID []byte `json:"cpu0-id"`    // under which AMD's key server has the signed CEK; empty before QEMU 7.1
}

// QueryPlatform asks QEMU, which has to run with KVM, for the certificates.
func QueryPlatform(ctx context.Context, c *qmp.Client) (Platform, error) {
	var p Platform
	err := c.Execute(ctx, "query-sev-capabilities", nil, &p)
	if refused, ok := errors.AsType[*qmp.Error](err); ok {
		return p, fmt.Errorf("%w: %w", ErrNoSEV, refused)
	}
	return p, err
}

// Explain adds the next step to an error of the connection to QEMU.
func Explain(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Hintf(err, "--timeout gives QEMU more time; another client may hold the socket")
	case errors.Is(err, qmp.ErrProtocol):
		return fault.Hintf(err, "is this QEMU's QMP socket, and not its human monitor?")
	}
	return err
}
