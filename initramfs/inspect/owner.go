package inspect

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"

	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/release/sevcert"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/state"
)

func showManifest(r *Report, m manifest.Manifest) {
	r.Details = Fields{
		{"version", m.Version},
		{"image", m.Image.String()},
		{"size", m.Size},
		{"luks_uuid", m.LUKS},
		{"filesystem", string(m.FSType)},
		{"key", m.Key.String()},
		{"cmdline", m.Cmdline},
	}
	p, err := policy.Parse(m.Cmdline)
	if err != nil {
		r.problem("%v", err)
	}
	r.addStates(p)
}

func (r *Report) addStates(p policy.Policy) {
	if len(p.States) > 0 {
		r.add("states", manifest.StatesOf(p))
		r.add("state_key", p.StateKey.String())
	}
}

// isState goes by either copy of the header.
func isState(s *subject) bool {
	second, _ := s.readAt(state.SecondCopy, len(state.Magic))
	return begins(state.Magic)(s) || string(second) == state.Magic
}

// lookState shows the header as the guest would choose it of two copies, but for the
// key: only the guest can tell which of two that differ is the key's.
func lookState(s *subject, r *Report) error {
	var found []state.Header
	var broken error
	for _, at := range []int64{0, state.SecondCopy} {
		block, _ := s.readAt(at, state.HeaderSize)
		h, err := state.Decode(block)
		if err != nil {
			broken = err
			continue
		}
		found = append(found, h)
	}
	switch {
	case len(found) == 0:
		r.problem("%v", broken)
		return nil
	case len(found) == 1:
		r.warn("one of the two copies of its header: %v; the guest takes the other", broken)
	case found[0] != found[1]:
		r.warn("the two copies of its header differ, and this is the first: the guest takes the one that its key has made, and neither if both are")
	}
	h := found[0]
	r.add("name", h.Name)
	r.add("salt", hex.EncodeToString(h.Salt[:]))
	r.add("journal_sections", h.Sections)
	return nil
}

func showPacket(r *Report, p packet.Packet) {
	r.addHeader(p.Header)
	r.add("payload_size", len(p.Secret))
	r.add("measurement", p.Measurement.String())
}

func (r *Report) addHeader(h []byte) {
	r.add("flags", "0x0")
	r.add("iv", hex.EncodeToString(h[4:20]))
	r.add("mac", hex.EncodeToString(h[20:]))
}

func showReport(r *Report, report release.Report) {
	m := report.Measurement
	r.Details = Fields{
		{"version", report.Version},
		{"firmware", report.API().String()},
		{"policy", report.Policy.String()},
		{"measurement_mac", hex.EncodeToString(m.MAC[:])},
		{"measurement_nonce", hex.EncodeToString(m.Nonce[:])},
	}
	if !report.Policy.Has(session.Strict) {
		r.warn("the policy protects less than %s; cocoroot release verify refuses it by default", session.Strict)
	}
}

// isPacketHeader goes by the size and the flags, of which one is defined.
func isPacketHeader(s *subject) bool {
	b := s.binary64(packet.HeaderSize)
	return b != nil && binary.LittleEndian.Uint32(b) <= 1
}

func lookPacketHeader(s *subject, r *Report) error {
	h := s.binary64(packet.HeaderSize)
	if err := packet.CheckHeader(h); err != nil {
		r.problem("%v; this one has a flag, compression, which no firmware takes any more", err)
		return s.err
	}
	r.addHeader(h)
	return nil
}

// isPacketSecret goes by the name, NAME_secret.b64 or NAME_secret.bin, and by the
// size, for what is encrypted has no mark.
func isPacketSecret(s *subject) bool {
	if !strings.HasSuffix(s.path, "_secret.b64") && !strings.HasSuffix(s.path, "_secret.bin") {
		return false
	}
	b := s.whole(2 * packet.MaxPayload)
	if raw := unbase64(b); raw != nil {
		b = raw
	}
	return len(b) > 0 && len(b)%aes.BlockSize == 0 && len(b) <= packet.MaxPayload
}

// isCertificates goes by the version and what the first one is for.
func isCertificates(s *subject) bool {
	if !begins("\x01\x00\x00\x00", "AQAAA")(s) {
		return false
	}
	var bundle sevcert.Bundle
	err := bundle.Add(s.whole(sevcert.MaxFile))
	return err == nil || len(bundle.Usages()) > 0
}

func lookCertificates(s *subject, r *Report) error {
	var bundle sevcert.Bundle
	if err := bundle.Add(s.whole(sevcert.MaxFile)); err != nil {
		r.problem("%v", err)
	}
	var names []string
	for _, u := range bundle.Usages() {
		names = append(names, u.String())
	}
	r.add("certificates", names)
	roots, err := sevcert.AMDRoots("")
	if err != nil {
		return err
	}
	_, generation, err := bundle.Verify(roots)
	switch {
	case err == nil:
		r.add("verified_up_to", generation)
	case errors.Is(err, sevcert.ErrMissing), errors.Is(err, sevcert.ErrCEK):
		r.warn("%v; cocoroot secret session verifies the chain", err)
	default:
		r.problem("%v", err)
		r.hint = "cocoroot secret session says more, and takes AMD's certificates and another root"
	}
	return nil
}

func isCmdline(s *subject) bool {
	head := s.head.Bytes()
	return !isObject(head) && bytes.Contains(head, []byte("cocoroot.")) && bytes.IndexByte(head, 0) < 0
}

func lookCmdline(s *subject, r *Report) error {
	if s.size > policy.MaxLength+1 {
		r.problem("%d bytes: the kernel keeps %d", s.size, policy.MaxLength)
		return nil
	}
	line := strings.TrimSuffix(string(s.head.Bytes()), "\n")
	t, err := measure.NewHashesTable(strings.NewReader(""), nil, line)
	if err != nil {
		r.problem("%v", err)
	}
	p, err := policy.Parse(line)
	if err != nil {
		r.problem("the guest would refuse it: %v", err)
		return nil
	}
	r.Details = Fields{
		{"disk", p.Disk.String()},
		{"image", p.Image.String()},
		{"image_size", p.Image.DeviceSize()},
		{"key", p.Key.String()},
		{"overlay", p.Overlay.String()},
		{"onfail", string(p.OnFail)},
		{"keep", cmdline.Keep(p.Keep)},
		{"timeout", p.Timeout.String()},
		{"modules", string(p.Modules)},
		{"rootfstype", string(p.FSType)},
		{"rootflags", p.RootFlags},
		{"init", p.Init},
		{"measured_as", hex.EncodeToString(t.Cmdline[:])},
	}
	r.addStates(p)
	return nil
}

// isKey goes by the form that cocoroot seal gives a key.
func isKey(s *subject) bool {
	const digits = 64
	return s.size == digits && !bytes.ContainsFunc(s.head.Bytes(), func(c rune) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
}

// lookUse shows nothing of a secret but what takes it.
func lookUse(commands ...string) func(*subject, *Report) error {
	return func(_ *subject, r *Report) error {
		r.add("use", commands)
		return nil
	}
}
