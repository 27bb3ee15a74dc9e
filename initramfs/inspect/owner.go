package inspect

import (
	"bytes"
	"encoding/base64"
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
)

// maxText bounds a small file that is read whole, in bytes.
const maxText = 64 << 10

// isObject reports whether the file looks like JSON.
func (s *subject) isObject() bool {
	return bytes.HasPrefix(bytes.TrimLeft(s.head.Bytes(), " \t\r\n"), []byte("{"))
}

// inspectJSON goes by the names that only one of the files has.
func inspectJSON(s *subject, r *Report) (bool, error) {
	if !s.isObject() {
		return false, nil
	}
	b, ok, err := s.whole(maxText)
	if !ok {
		return false, err
	}
	has := func(name string) bool { return bytes.Contains(b, []byte(`"`+name+`"`)) }
	switch {
	case has("header") && has("secret"):
		inspectPacket(b, r)
	case has("api_major"):
		inspectReport(b, r)
	case has("luks_uuid"):
		inspectManifest(b, r)
	default:
		return false, nil
	}
	return true, nil
}

func inspectManifest(b []byte, r *Report) {
	r.Kind, r.title = "manifest", "a sealed image's manifest, which nobody believes: what counts is the command line"
	r.hint = "cocoroot seal writes it"
	m, err := manifest.Parse(b)
	if err != nil {
		r.problem("%v", err)
		return
	}
	r.Details = fields{
		{"version", m.Version},
		{"image", m.Image.String()},
		{"size", m.Size},
		{"luks_uuid", m.LUKS},
		{"filesystem", string(m.FSType)},
		{"key", m.Key.String()},
		{"cmdline", m.Cmdline},
	}
}

func inspectPacket(b []byte, r *Report) {
	r.Kind, r.title = "packet", "a packet for one launch"
	r.hint = "cocoroot release verify writes it"
	p, m, err := packet.Decode(b)
	if err != nil {
		r.problem("%v", err)
		return
	}
	r.Details = append(headerFields(p.Header), fields{
		{"payload_size", len(p.Payload)},
		{"measurement", m.String()},
	}...)
}

func headerFields(h packet.Header) fields {
	return fields{
		{"flags", "0x0"},
		{"iv", hex.EncodeToString(h.IV[:])},
		{"mac", hex.EncodeToString(h.MAC[:])},
	}
}

func inspectReport(b []byte, r *Report) {
	r.Kind, r.title = "launch_report", "a launch report, the host's word until cocoroot release verify has checked it"
	r.hint = "cocoroot release collect writes it"
	report, err := release.ParseReport(b)
	if err != nil {
		r.problem("%v", err)
		return
	}
	m := report.Measurement
	r.Details = fields{
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

// binary64 returns a small file in binary: as it is, or what its base64 says.
func (s *subject) binary64(size int64) ([]byte, error) {
	text := int64(base64.StdEncoding.EncodedLen(int(size)))
	switch s.size {
	case size:
		b, _, err := s.whole(size)
		return b, err
	case text, text + 1: // with a newline
		b, _, err := s.whole(text + 1)
		if err != nil {
			return nil, err
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(b), "\n"))
		if err == nil && int64(len(raw)) == size {
			return raw, nil
		}
	}
	return nil, nil
}

// inspectPacketHeader goes by the size and the flags, of which one is defined.
func inspectPacketHeader(s *subject, r *Report) (bool, error) {
	b, err := s.binary64(packet.HeaderSize)
	if err != nil || b == nil || binary.LittleEndian.Uint32(b) > 1 {
		return false, err
	}
	r.Kind, r.title = "packet_header", "a LAUNCH_SECRET packet header"
	h, err := packet.ParseHeader(b)
	if err != nil {
		r.problem("%v; this one has a flag, compression, which no firmware takes any more", err)
		return true, nil
	}
	r.Details = headerFields(h)
	return true, nil
}

// inspectSession goes only by the size, because the blob has no mark. What is in
// it is random or encrypted, and none of it shows.
func inspectSession(s *subject, r *Report) (bool, error) {
	b, err := s.binary64(session.BlobSize)
	if err != nil || b == nil {
		return false, err
	}
	r.Kind, r.title = "session_blob", "a session blob for LAUNCH_START, by its size alone"
	r.Details = fields{{"content", []string{
		"nonce, 16 bytes", "TEK and TIK, wrapped for one platform, 32 bytes", "IV, 16 bytes",
		"MAC of the wrapped keys, 32 bytes", "MAC of the policy, 32 bytes",
	}}}
	return true, nil
}

// inspectCertificates goes by the version and what the first one is for.
func inspectCertificates(s *subject, r *Report) (bool, error) {
	if !s.begins("\x01\x00\x00\x00") && !s.begins("AQAAA") {
		return false, nil
	}
	b, ok, err := s.whole(sevcert.MaxFile)
	if !ok {
		return false, err
	}
	var bundle sevcert.Bundle
	if err := bundle.Add(b); err != nil {
		if len(bundle.Usages()) == 0 {
			return false, nil
		}
		r.problem("%v", err)
	}
	r.Kind, r.title = "sev_certificates", "certificates of an SEV platform"
	r.hint = "cocoroot release platform and sevctl export write them"
	var names []string
	for _, u := range bundle.Usages() {
		names = append(names, u.String())
	}
	f := fields{{"certificates", names}}
	roots, err := sevcert.AMDRoots()
	if err != nil {
		return false, err
	}
	_, generation, err := bundle.Verify(roots)
	switch {
	case err == nil:
		f.add("verified_up_to", generation)
	case errors.Is(err, sevcert.ErrMissing), errors.Is(err, sevcert.ErrCEK):
		r.warn("%v; cocoroot secret session verifies the chain", err)
	default:
		r.problem("%v", err)
		r.hint = "cocoroot secret session says more, and takes AMD's certificates and another root"
	}
	r.Details = f
	return true, nil
}

// inspectCmdline goes by our parameters.
func inspectCmdline(s *subject, r *Report) (bool, error) {
	if s.isObject() || !bytes.Contains(s.head.Bytes(), []byte("cocoroot.")) || bytes.IndexByte(s.head.Bytes(), 0) >= 0 {
		return false, nil
	}
	r.Kind, r.title = "command_line", "a kernel command line"
	r.hint = "cocoroot seal writes one, and --append adds to it"
	if s.size > policy.MaxLength+1 {
		r.problem("%d bytes: the kernel keeps %d", s.size, policy.MaxLength)
		return true, nil
	}
	line := strings.TrimSuffix(string(s.head.Bytes()), "\n")
	if err := measure.CheckCmdline(line); err != nil {
		r.problem("%v", err)
	}
	p, err := policy.Parse(line)
	if err != nil {
		r.problem("the guest would refuse it: %v", err)
		return true, nil
	}
	r.Details = policyFields(p, line)
	return true, nil
}

func policyFields(p policy.Policy, line string) fields {
	return fields{
		{"disk", p.Disk.String()},
		{"image", p.Image.String()},
		{"image_size", p.Image.DeviceSize()},
		{"key", p.Key.String()},
		{"overlay", cmdline.Overlay(p.Overlay)},
		{"onfail", string(p.OnFail)},
		{"keep", cmdline.Keep(p.Keep)},
		{"timeout", p.Timeout.String()},
		{"modules", string(p.Modules)},
		{"rootfstype", string(p.FSType)},
		{"rootflags", p.RootFlags},
		{"init", p.Init},
		{"measured_as", hex.EncodeToString(cmdlineSum(line))},
	}
}

func cmdlineSum(line string) []byte {
	t, err := measure.NewHashesTable(strings.NewReader(""), nil, line)
	if err != nil {
		return nil
	}
	return t.Cmdline[:]
}

// inspectKey goes by the form that cocoroot seal gives a key. It shows nothing of
// it.
func inspectKey(s *subject, r *Report) (bool, error) {
	const digits = 64
	if s.size != digits || bytes.ContainsFunc(s.head.Bytes(), func(c rune) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') }) {
		return false, nil
	}
	r.Kind, r.title = "key", "a key as cocoroot seal makes it: SECRET"
	r.Details = fields{{"use", []string{"cocoroot verify IMAGE --key-file", "cocoroot secret build GUID=FILE"}}}
	return true, nil
}

// inspectTransportKey goes only by the size, because such a key has no mark.
func inspectTransportKey(s *subject, r *Report) (bool, error) {
	if s.size != session.KeySize {
		return false, nil
	}
	r.Kind, r.title = "transport_key", "a session's transport key (TIK or TEK), by its size alone: SECRET"
	r.Details = fields{{"use", []string{"cocoroot release verify REPORT --tik, --tek"}}}
	return true, nil
}
