package snp

import (
	"bytes"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/release"
)

// Kind is the kind of the report's and the packet's file.
const Kind = "sev-snp"

// MaxFile bounds a report's or a packet's file in bytes: a request of 96 KiB in
// base64, and some text.
const MaxFile = 140 << 10

// Errors returned for what the host or the guest brings.
var (
	ErrRequest = errors.New("not a guest's request")
	ErrFile    = errors.New("not a file of this kind")
)

// Sizes in bytes; the specification is unlock/release/README.md.
const (
	publicSize = 1216
	maxAux     = 16 << 10
)

// Request is what a guest asked with. Its form was checked, and nothing else.
type Request struct {
	release.Request
	body []byte // as it came, which is what is hashed
	key  hpke.PublicKey
}

// ParseRequest reads the body of a request, which the host brings.
func ParseRequest(body []byte) (Request, error) {
	r := Request{body: bytes.Clone(body)}
	rest := r.body
	var challenge, suite []byte
	for _, f := range []struct {
		name        string
		to          *[]byte
		least, most int
	}{
		{"challenge", &challenge, release.ChallengeSize, release.ChallengeSize},
		{"suite", &suite, len(release.Suite()), len(release.Suite())},
		{"public key", &r.Public, publicSize, publicSize},
		{"report", &r.Report, release.Report, release.Report},
		{"certificates", &r.Aux, 0, maxAux},
	} {
		if len(rest) < 4 {
			return Request{}, fmt.Errorf("%w: it ends before the %s", ErrRequest, f.name)
		}
		n := binary.LittleEndian.Uint32(rest)
		if rest = rest[4:]; n < uint32(f.least) || n > uint32(f.most) || int(n) > len(rest) {
			return Request{}, fmt.Errorf("%w: %d bytes of the %s", ErrRequest, n, f.name)
		}
		*f.to, rest = rest[:n:n], rest[n:]
	}
	if len(rest) > 0 {
		return Request{}, fmt.Errorf("%w: %d bytes follow it", ErrRequest, len(rest))
	}
	if !bytes.Equal(suite, release.Suite()) {
		return Request{}, fmt.Errorf("%w: it is for the suite %x, and there is only %x", ErrRequest, suite, release.Suite())
	}
	r.Challenge = [release.ChallengeSize]byte(challenge)
	var err error
	if r.key, err = hpke.MLKEM768X25519().NewPublicKey(r.Public); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return r, nil
}

// reportFile is report.json.
type reportFile struct {
	Version int    `json:"version"`
	Kind    string `json:"kind"`
	Request []byte `json:"request"` // base64 in JSON
}

// Encode returns the request's file, report.json.
func (r Request) Encode() ([]byte, error) {
	return strictjson.Encode(reportFile{strictjson.Version, Kind, r.body})
}

// ParseReport reads report.json, which the host wrote.
func ParseReport(b []byte) (Request, error) {
	var f reportFile
	if err := strictjson.DecodeKind(b, MaxFile, &f, Kind); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrFile, err)
	}
	return ParseRequest(f.Request)
}

// Packet is an answer and the transcript of the request that it answers, so that
// the host can tell one for another guest before it is sent.
type Packet struct {
	Transcript [release.HashSize]byte
	Answer     []byte
}

// packetFile is NAME_packet.json.
type packetFile struct {
	Version    int    `json:"version"`
	Kind       string `json:"kind"`
	Transcript []byte `json:"transcript"` // base64 in JSON, as is the answer
	Answer     []byte `json:"answer"`
}

// Encode returns the packet's file. It is not secret.
func (p Packet) Encode() ([]byte, error) {
	return strictjson.Encode(packetFile{strictjson.Version, Kind, p.Transcript[:], p.Answer})
}

// ParsePacket reads a packet's file. To the host it comes from the owner; the
// guest is the one that authenticates it.
func ParsePacket(b []byte) (Packet, error) {
	var f packetFile
	if err := strictjson.DecodeKind(b, MaxFile, &f, Kind); err != nil {
		return Packet{}, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if len(f.Transcript) != release.HashSize || len(f.Answer) == 0 || len(f.Answer) > release.MaxAnswer {
		return Packet{}, fmt.Errorf("%w: a transcript of %d bytes, an answer of %d", ErrFile, len(f.Transcript), len(f.Answer))
	}
	return Packet{[release.HashSize]byte(f.Transcript), f.Answer}, nil
}
