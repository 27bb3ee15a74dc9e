// Package packet builds what LAUNCH_SECRET takes: a header of 52 bytes and the
// encrypted secret table (SEV API specification, AMD publication 55766,
// LAUNCH_SECRET). All numbers are little-endian.
//
// A packet is not secret: only the PSP that made the measurement can open it,
// and only for that one launch. It does not say what became of the secret, nor
// whether the guest was the right one: that has to be known before.
package packet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/strictjson"
)

const (
	// HeaderSize is the size of a packet's header in bytes: flags u32, zero as
	// nothing is compressed, IV 16, MAC 32.
	HeaderSize = 52
	// MaxPayload is the most that LAUNCH_SECRET takes, in bytes.
	MaxPayload = 16 << 10
	// MaxFile bounds a packet's file in bytes: 16 KiB in base64 and some text.
	MaxFile = 32 << 10
	// Kind is the kind of this file and of a launch's report, beside those of other
	// platforms. A file that names no kind is of this one.
	Kind = "sev"

	alignment = aes.BlockSize // what a payload's size is a multiple of, in bytes
)

var (
	errFile    = errors.New("not a packet's file")
	errHeader  = errors.New("a packet header has 52 bytes and no flags")
	errPayload = errors.New("a packet's payload is a multiple of 16 bytes, at most 16 KiB")
)

// Packet is a header and an encrypted table, with the measurement that they are
// bound to, so that the host can tell a stale one before it is used up. In JSON,
// header and secret are under the names that KubeVirt's injectlaunchsecret takes.
type Packet struct {
	Version     int                 `json:"version"`
	Kind        string              `json:"kind,omitempty"`
	Header      []byte              `json:"header"` // base64 in JSON, as is secret
	Secret      []byte              `json:"secret"`
	Measurement session.Measurement `json:"measurement"`
}

// CheckHeader refuses what is not a header.
func CheckHeader(b []byte) error {
	if len(b) != HeaderSize || binary.LittleEndian.Uint32(b) != 0 {
		return errHeader
	}
	return nil
}

// Decode reads a packet's file. To the host it comes from the owner, through whoever
// is between them; the PSP is the one that authenticates it.
func Decode(b []byte) (Packet, error) {
	var p Packet
	err := strictjson.DecodeKind(b, MaxFile, &p, Kind, "")
	if err == nil && p.Measurement == (session.Measurement{}) {
		err = errors.New("no measurement")
	}
	if err == nil {
		err = CheckHeader(p.Header)
	}
	if n := len(p.Secret); err == nil && (n == 0 || n%alignment != 0 || n > MaxPayload) {
		err = fmt.Errorf("%w: this one has %d", errPayload, n)
	}
	if err != nil {
		return Packet{}, fmt.Errorf("%w: %w", errFile, err)
	}
	return p, nil
}

// Files returns the files of a packet, whose names begin with name: as JSON,
// header and secret in base64, and with raw those two in binary.
func (p Packet) Files(name string, raw bool) ([]files.File, error) {
	file, err := strictjson.Encode(p)
	all := []files.File{
		files.Public(name+"_packet.json", file),
		files.Public(name+"_header.b64", Base64(p.Header)),
		files.Public(name+"_secret.b64", Base64(p.Secret)),
	}
	if raw {
		all = append(all, files.Public(name+"_header.bin", p.Header), files.Public(name+"_secret.bin", p.Secret))
	}
	return all, err
}

// Base64 returns one line without its newline, as sevctl writes it.
func Base64(b []byte) []byte { return base64.StdEncoding.AppendEncode(nil, b) }

// Seal encrypts a secret table for the launch with that measurement, which
// must have been checked. The table is padded with zeros to a multiple of 16
// bytes; a kernel ignores them, for they lie after the table's length.
func Seal(keys *session.Keys, table []byte, m session.Measurement) (Packet, error) {
	var iv [aes.BlockSize]byte
	rand.Read(iv[:]) // never fails
	return seal(keys, table, m, iv)
}

// seal is Seal with an IV, which must not be used twice under the same keys.
func seal(keys *session.Keys, table []byte, m session.Measurement, iv [aes.BlockSize]byte) (Packet, error) {
	size := (len(table) + alignment - 1) / alignment * alignment
	if size == 0 || size > MaxPayload {
		return Packet{}, fmt.Errorf("cannot encrypt the secret table: %w: this one has %d", errPayload, size)
	}
	block, err := aes.NewCipher(keys.TEK.Bytes())
	if err != nil {
		return Packet{}, fmt.Errorf("cannot encrypt the secret table: %w", err)
	}
	// The plaintext goes from the table's memory straight into ciphertext.
	secret := make([]byte, size)
	stream := cipher.NewCTR(block, iv[:])
	n := len(table)
	stream.XORKeyStream(secret[:n], table)
	stream.XORKeyStream(secret[n:], secret[n:])

	const context = 0x01 // what begins the MAC of a packet
	flags, length := make([]byte, 4), binary.LittleEndian.AppendUint32(nil, uint32(size))
	mac := keys.MAC([]byte{context}, flags, iv[:], length, length, secret, m.MAC[:])
	return Packet{strictjson.Version, Kind, slices.Concat(flags, iv[:], mac[:]), secret, m}, nil
}
