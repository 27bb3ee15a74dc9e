// Package psptest is only for tests: a guest as a platform security processor
// launches it, with the commands that its owner meets, and a QMP server in front
// of it that records what it is asked.
//
// Its code shares nothing with the code it judges: formats are written a second
// time, from the SEV API specification (AMD publication 55766). It protects
// nothing.
package psptest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// Status is what a PSP answers a command with (SEV API, status codes).
type Status int

// The codes that a guest owner can meet.
const (
	Success        Status = 0x00
	InvalidState   Status = 0x02
	InvalidLength  Status = 0x04
	BadMeasurement Status = 0x0b
)

// Guest is a guest that is being launched.
type Guest struct {
	API    [3]byte // major, minor, build
	Policy uint32
	Digest [32]byte
	State  string // as QEMU names it
	Table  []byte // what was injected, decrypted

	tek, tik []byte
	nonce    [16]byte
}

// NewGuest is a measured guest of an owner whose keys are known.
func NewGuest(tik, tek []byte, policy uint32, digest [32]byte) *Guest {
	g := &Guest{API: [3]byte{1, 55, 21}, Policy: policy, Digest: digest, State: "launch-secret", tek: tek, tik: tik}
	rand.Read(g.nonce[:])
	return g
}

// Relaunch is another launch of the same guest under the same keys.
func (g *Guest) Relaunch() *Guest {
	h := NewGuest(g.tik, g.tek, g.Policy, g.Digest)
	h.API = g.API
	return h
}

// Measure is LAUNCH_MEASURE: MAC and nonce.
func (g *Guest) Measure() []byte {
	m := sign(g.tik, []byte{4}, g.API[:], word(g.Policy), g.Digest[:], g.nonce[:])
	return append(m, g.nonce[:]...)
}

// LaunchSecret is LAUNCH_SECRET.
func (g *Guest) LaunchSecret(header, payload []byte) Status {
	if g.State != "launch-secret" {
		return InvalidState
	}
	n := uint32(len(payload))
	if len(header) != 52 || n == 0 || n%16 != 0 || n > 16384 {
		return InvalidLength
	}
	want := sign(g.tik, []byte{1}, header[:20], word(n), word(n), payload, g.Measure()[:32])
	if !bytes.Equal(want, header[20:]) {
		return BadMeasurement
	}
	block, err := aes.NewCipher(g.tek)
	if err != nil {
		panic(err)
	}
	g.Table = make([]byte, n)
	cipher.NewCTR(block, header[4:20]).XORKeyStream(g.Table, payload)
	return Success
}

func word(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func sign(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(bytes.Join(parts, nil))
	return h.Sum(nil)
}
