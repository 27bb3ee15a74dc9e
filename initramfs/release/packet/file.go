package packet

import (
	"encoding/base64"
	"errors"
	"fmt"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/strictjson"
)

// MaxFile bounds a packet's file in bytes: 16 KiB in base64 and some text.
const MaxFile = 32 << 10

// Kind is the kind of this file and of a launch's report, beside those of other
// platforms. A file that says nothing is of it.
const Kind = "sev"

var errFile = errors.New("not a packet's file")

// File is a packet with the measurement that it is bound to, so that the host
// can tell a stale one before it is used up. Header and secret are under the
// names that KubeVirt's injectlaunchsecret takes.
type File struct {
	Version     int                 `json:"version"`
	Kind        string              `json:"kind,omitempty"`
	Header      []byte              `json:"header"` // base64 in JSON, as is secret
	Secret      []byte              `json:"secret"`
	Measurement session.Measurement `json:"measurement"`
}

// Encode returns the file of a packet.
func Encode(p Packet, m session.Measurement) ([]byte, error) {
	return strictjson.Encode(File{strictjson.Version, Kind, p.Header.Bytes(), p.Payload, m})
}

// Decode reads a file. To the host it comes from the owner, through whoever is
// between them; the PSP is the one that authenticates it.
func Decode(b []byte) (Packet, session.Measurement, error) {
	var f File
	if err := strictjson.DecodeKind(b, MaxFile, &f, Kind, ""); err != nil {
		return Packet{}, f.Measurement, fmt.Errorf("%w: %w", errFile, err)
	}
	if f.Measurement == (session.Measurement{}) {
		return Packet{}, f.Measurement, fmt.Errorf("%w: no measurement", errFile)
	}
	p, err := Parse(f.Header, f.Secret)
	if err != nil {
		return Packet{}, f.Measurement, fmt.Errorf("%w: %w", errFile, err)
	}
	return p, f.Measurement, nil
}

// Files returns the files of a packet, whose names begin with name: as JSON,
// header and payload in base64, and with raw those two in binary.
func Files(name string, p Packet, m session.Measurement, raw bool) ([]files.File, error) {
	file, err := Encode(p, m)
	if err != nil {
		return nil, err
	}
	all := []files.File{
		files.Public(name+"_packet.json", file),
		files.Public(name+"_header.b64", Base64(p.Header.Bytes())),
		files.Public(name+"_secret.b64", Base64(p.Payload)),
	}
	if raw {
		all = append(all, files.Public(name+"_header.bin", p.Header.Bytes()), files.Public(name+"_secret.bin", p.Payload))
	}
	return all, nil
}

// Base64 returns one line without its newline, as sevctl writes it.
func Base64(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) }
