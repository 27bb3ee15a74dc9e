package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/psptest"
)

// platform is a chip with its certificates, which the tests of sevcert make and
// check. How it starts a guest is written from the SEV API specification (AMD
// publication 55766), without the code that it judges.
type platform struct {
	ARK, ASK           []byte // AMD's format
	PDH, PEK, OCA, CEK []byte // SEV's format; the CEK as AMD's key server has it
	RawCEK             []byte // as the chip exports it: without AMD's signature

	Root string // SHA-256 of the root key's SubjectPublicKeyInfo, in hex
	Key  []byte // of the PDH: its private half
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(oracle.Repository(t), "initramfs/release/sevcert/testdata/platform.json"))
	p := new(platform)
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// chain returns all certificates one after the other.
func (p *platform) chain() []byte {
	return slices.Concat(p.PDH, p.PEK, p.OCA, p.CEK, p.ASK, p.ARK)
}

// start is LAUNCH_START. It unwraps the owner's keys: session is the blob of 128
// bytes, godh his certificate. The guest it returns is measured.
func (p *platform) start(t *testing.T, session, godh []byte, policy uint32, digest [32]byte) *psptest.Guest {
	t.Helper()
	if len(session) != 128 || len(godh) != 2084 {
		t.Fatalf("LAUNCH_START of %d and %d bytes", len(session), len(godh))
	}
	point := []byte{4}
	for _, at := range []int{20, 92} {
		n := slices.Clone(godh[at : at+48])
		slices.Reverse(n)
		point = append(point, n...)
	}
	z := must(must(ecdh.P384().NewPrivateKey(p.Key)).ECDH(must(ecdh.P384().NewPublicKey(point))))

	nonce, wrapped, iv := session[:16], session[16:48], session[48:64]
	master := kdf(z, "sev-master-secret", nonce)
	if !hmac.Equal(sign(kdf(master, "sev-kik", nil), wrapped), session[64:96]) {
		t.Fatal("the MAC of the wrapped keys is wrong")
	}
	keys := make([]byte, 32)
	cipher.NewCTR(must(aes.NewCipher(kdf(master, "sev-kek", nil))), iv).XORKeyStream(keys, wrapped)
	tek, tik := keys[:16], keys[16:]
	if !hmac.Equal(sign(tik, word(policy)), session[96:]) {
		t.Fatal("the MAC of the policy is wrong")
	}
	return psptest.NewGuest(tik, tek, policy, digest)
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

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
