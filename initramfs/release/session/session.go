package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// BlobSize is the size in bytes of a session blob.
const BlobSize = 128

// Blob is the session buffer of LAUNCH_START (SEV API, session data):
// nonce 16 ‖ wrapped TEK and TIK 32 ‖ IV 16 ‖ MAC of the wrapped keys 32 ‖
// MAC of the policy 32.
type Blob [BlobSize]byte

// Where the parts of a blob begin.
const (
	blobNonce  = 0
	blobWrap   = blobNonce + 16
	blobIV     = blobWrap + 2*KeySize
	blobMAC    = blobIV + aes.BlockSize
	blobPolicy = blobMAC + 32
)

// The labels of the key derivation (SEV API; virtee/sev src/session).
const (
	labelMaster = "sev-master-secret"
	labelKEK    = "sev-kek"
	labelKIK    = "sev-kik"
)

// Start wraps the keys for the platform whose Diffie-Hellman key is pdh. It
// returns the blob and the public half of the owner's own key, made for this
// one session; its private half is forgotten. Everyone who can replace pdh can
// read the keys: it has to come from a verified chain.
func Start(pdh *ecdh.PublicKey, keys *Keys, policy Policy) (Blob, *ecdh.PublicKey, error) {
	own, err := pdh.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return Blob{}, nil, fmt.Errorf("cannot start a session: %w", err)
	}
	z, err := own.ECDH(pdh)
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
	master := derive(z, labelMaster, nonce[:])
	kek := derive(master[:], labelKEK, nil)
	kik := derive(master[:], labelKIK, nil)
	defer func() {
		clear(master[:])
		clear(kek[:])
		clear(kik[:])
	}()
	block, err := aes.NewCipher(kek[:])
	if err != nil {
		return Blob{}, err
	}
	var b Blob
	copy(b[blobNonce:], nonce[:])
	copy(b[blobIV:], iv[:])
	wrapped := b[blobWrap:blobIV]
	stream := cipher.NewCTR(block, iv[:])
	stream.XORKeyStream(wrapped[:KeySize], keys.TEK.Bytes())
	stream.XORKeyStream(wrapped[KeySize:], keys.TIK.Bytes())

	wrapMAC := mac(kik[:], wrapped)
	copy(b[blobMAC:], wrapMAC[:])
	policyMAC := keys.MAC(policy.bytes())
	copy(b[blobPolicy:], policyMAC[:])
	return b, nil
}

// derive is the key derivation of NIST SP 800-108 in counter mode with
// HMAC-SHA-256, where counter and length are little-endian. One round is
// enough for a key of 128 bits.
func derive(key []byte, label string, context []byte) [KeySize]byte {
	counter := binary.LittleEndian.AppendUint32(nil, 1)
	bits := binary.LittleEndian.AppendUint32(nil, KeySize*8)
	out := mac(key, counter, []byte(label), []byte{0}, context, bits)
	defer clear(out[:])
	return [KeySize]byte(out[:KeySize])
}
