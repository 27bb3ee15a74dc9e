package psptest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Status is what a PSP answers a command with (SEV API, status codes).
type Status int

// The codes that a guest owner can meet.
const (
	Success        Status = 0x00
	InvalidState   Status = 0x02
	InvalidLength  Status = 0x04
	PolicyFailure  Status = 0x07
	BadSignature   Status = 0x0a
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

// LaunchStart unwraps the owner's keys: session is the blob of 128 bytes, godh
// his certificate. The guest it returns is measured, with a fresh nonce.
func (p *Platform) LaunchStart(session, godh []byte, policy uint32, digest [32]byte) (*Guest, Status) {
	if len(session) != 128 || len(godh) != 2084 {
		return nil, InvalidLength
	}
	point := []byte{4}
	for _, at := range []int{20, 92} {
		n := slices.Clone(godh[at : at+48])
		slices.Reverse(n)
		point = append(point, n...)
	}
	z := must(p.pdh.ECDH(must(ecdh.P384().NewPublicKey(point))))

	nonce, wrapped, iv := session[:16], session[16:48], session[48:64]
	master := kdf(z, "sev-master-secret", nonce)
	if !hmac.Equal(sign(kdf(master, "sev-kik", nil), wrapped), session[64:96]) {
		return nil, BadSignature
	}
	keys := make([]byte, 32)
	cipher.NewCTR(must(aes.NewCipher(kdf(master, "sev-kek", nil))), iv).XORKeyStream(keys, wrapped)
	g := NewGuest(keys[16:], keys[:16], policy, digest)
	if !hmac.Equal(sign(g.tik, word(policy)), session[96:]) {
		return nil, PolicyFailure
	}
	return g, Success
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
	g.Table = make([]byte, n)
	cipher.NewCTR(must(aes.NewCipher(g.tek)), header[4:20]).XORKeyStream(g.Table, payload)
	return Success
}

func word(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func sign(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(bytes.Join(parts, nil))
	return h.Sum(nil)
}

func kdf(key []byte, label string, context []byte) []byte {
	return sign(key, word(1), append([]byte(label), 0), context, word(128))[:16]
}
