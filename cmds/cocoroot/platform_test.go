package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/strictjson"
)

// What a platform's security processor does at a launch, with the commands that
// an owner meets. The code shares nothing with the code it judges: formats and
// derivations are written a second time, from the SEV API specification (AMD
// publication 55766).

// platform is a chip with its certificates, which the tests of sevcert make and
// check.
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
func (p *platform) start(t *testing.T, session, godh []byte, policy uint32, digest [32]byte) *pspGuest {
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
	return newGuest(tik, tek, policy, digest)
}

// status is what a PSP answers a command with (SEV API, status codes).
type status int

// The codes that a guest owner can meet.
const (
	success        status = 0x00
	invalidState   status = 0x02
	invalidLength  status = 0x04
	badMeasurement status = 0x0b
)

// pspGuest is a guest that is being launched.
type pspGuest struct {
	API    [3]byte // major, minor, build
	Policy uint32
	Digest [32]byte
	State  string // as QEMU names it
	Table  []byte // what was injected, decrypted

	tek, tik []byte
	nonce    [16]byte
}

// newGuest is a measured guest of an owner whose keys are known.
func newGuest(tik, tek []byte, policy uint32, digest [32]byte) *pspGuest {
	g := &pspGuest{API: [3]byte{1, 55, 21}, Policy: policy, Digest: digest, State: "launch-secret", tek: tek, tik: tik}
	rand.Read(g.nonce[:])
	return g
}

// Relaunch is another launch of the same guest under the same keys.
func (g *pspGuest) Relaunch() *pspGuest {
	h := newGuest(g.tik, g.tek, g.Policy, g.Digest)
	h.API = g.API
	return h
}

// Measure is LAUNCH_MEASURE: MAC and nonce.
func (g *pspGuest) Measure() []byte {
	m := sign(g.tik, []byte{4}, g.API[:], word(g.Policy), g.Digest[:], g.nonce[:])
	return append(m, g.nonce[:]...)
}

// LaunchSecret is LAUNCH_SECRET.
func (g *pspGuest) LaunchSecret(header, payload []byte) status {
	if g.State != "launch-secret" {
		return invalidState
	}
	n := uint32(len(payload))
	if len(header) != 52 || n == 0 || n%16 != 0 || n > 16384 {
		return invalidLength
	}
	want := sign(g.tik, []byte{1}, header[:20], word(n), word(n), payload, g.Measure()[:32])
	if !bytes.Equal(want, header[20:]) {
		return badMeasurement
	}
	block, err := aes.NewCipher(g.tek)
	if err != nil {
		panic(err)
	}
	g.Table = make([]byte, n)
	cipher.NewCTR(block, header[4:20]).XORKeyStream(g.Table, payload)
	return success
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

// The security processor refuses a packet of which one bit was changed.
func TestChangedPacket(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest})
	if code, _, stderr := r.verify(); code != fault.OK {
		t.Fatal(stderr)
	}
	whole := string(r.read("p_packet.json"))
	p, err := packet.Decode([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){
		"payload": func() { p.Secret[5] ^= 1 },
		"MAC":     func() { p.Header[20] ^= 1 },
		"IV":      func() { p.Header[4] ^= 1 },
	} {
		change()
		changed, err := strictjson.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		change() // back
		file := put(t, r.path("changed"), string(changed))
		code, _, stderr := call(t, "release", "inject", file, "--qmp", (&fakeQEMU{Guest: r.guest}).Serve(t))
		if code != fault.Secret || !strings.Contains(stderr, "fw_error=11") || r.guest.Table != nil {
			t.Errorf("inject with another %s = %d, %q, the guest has %q", name, code, stderr, r.guest.Table)
		}
	}
}
