package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
)

// BlobSize is the size in bytes of a session blob.
const BlobSize = 128

// Blob is the session buffer of LAUNCH_START (SEV API, session data):
// nonce 16 ‖ wrapped TEK and TIK 32 ‖ IV 16 ‖ MAC of the wrapped keys 32 ‖
// MAC of the policy 32.
type Blob [BlobSize]byte

// Start wraps the keys for the platform whose Diffie-Hellman key is pdh. It
// returns the blob and the public half of the owner's own key, made for this
// one session; its private half is forgotten. Everyone who can replace pdh can
// read the keys: it has to come from a verified chain.
func Start(pdh *ecdh.PublicKey, keys *Keys, policy Policy) (Blob, *ecdh.PublicKey, error) {
	own, err := pdh.Curve().GenerateKey(rand.Reader)
	var z []byte
	if err == nil {
		z, err = own.ECDH(pdh)
	}
	if err != nil {
		return Blob{}, nil, fmt.Errorf("cannot start a session: %w", err)
	}
	defer clear(z)
	var nonce, iv [16]byte
	rand.Read(nonce[:])
	rand.Read(iv[:])
	b, err := wrap(z, nonce, iv, keys, policy)
	if err != nil {
		return Blob{}, nil, fmt.Errorf("cannot start a session: %w", err)
	}
	return b, own.PublicKey(), nil
}

// wrap builds the blob. Nonce and IV must not be used twice.
func wrap(z []byte, nonce, iv [16]byte, keys *Keys, policy Policy) (Blob, error) {
	master := derive(z, "sev-master-secret", nonce[:])
	kek := derive(master[:], "sev-kek", nil)
	kik := derive(master[:], "sev-kik", nil)
	defer func() {
		clear(master[:])
		clear(kek[:])
		clear(kik[:])
	}()
	block, err := aes.NewCipher(kek[:])
	if err != nil {
		return Blob{}, err
	}
	stream := cipher.NewCTR(block, iv[:])
	var wrapped [2 * KeySize]byte
	stream.XORKeyStream(wrapped[:KeySize], keys.TEK.Bytes())
	stream.XORKeyStream(wrapped[KeySize:], keys.TIK.Bytes())
	wrapMAC, policyMAC := mac(kik[:], wrapped[:]), keys.MAC(policy.bytes())
	return Blob(slices.Concat(nonce[:], wrapped[:], iv[:], wrapMAC[:], policyMAC[:])), nil
}

// derive is the key derivation of NIST SP 800-108 in counter mode with
// HMAC-SHA-256, where counter and length are little-endian (labels: SEV API;
// virtee/sev src/session). One round is enough for a key of 128 bits.
func derive(key []byte, label string, context []byte) [KeySize]byte {
	counter := binary.LittleEndian.AppendUint32(nil, 1)
	bits := binary.LittleEndian.AppendUint32(nil, KeySize*8)
	out := mac(key, counter, []byte(label), []byte{0}, context, bits)
	defer clear(out[:])
	return [KeySize]byte(out[:KeySize])
}
