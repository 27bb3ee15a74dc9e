package session

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/secmem"
)

// vectors is the part of secret.json that this package answers for.
type vectors struct {
	Measurement []struct {
		TIK         string
		APIMajor    uint8 `json:"api_major"`
		APIMinor    uint8 `json:"api_minor"`
		Build       uint8
		Policy      uint32
		DigestB64   []byte `json:"launch_digest_b64"`
		Digest      string `json:"launch_digest"`
		ResultB64   []byte `json:"result_b64"`
		MNonce, MAC string
	}
	Session struct {
		KDF  struct{ Z, Context, Label, Key string }
		Zero struct {
			WrapTK    string `json:"wrap_tk"`
			WrapMAC   string `json:"wrap_mac"`
			PolicyMAC string `json:"policy_mac"`
		} `json:"zero_inputs"`
	}
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	var v vectors
	if err := json.Unmarshal(oracle.Vector(t, "secret.json"), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keysOf puts known bytes into locked memory.
func keysOf(t *testing.T, tik, tek []byte) *Keys {
	t.Helper()
	k := new(Keys)
	t.Cleanup(func() { k.Close() })
	for to, from := range map[**secmem.Buffer][]byte{&k.TIK: tik, &k.TEK: tek} {
		b, err := secmem.New(KeySize)
		if err != nil {
			t.Fatal(err)
		}
		copy(b.Bytes(), from)
		*to = b
	}
	return k
}

func TestMeasurementVectors(t *testing.T) {
	all := readVectors(t).Measurement
	if len(all) != 2 {
		t.Fatalf("%d vectors; want 2", len(all))
	}
	for i, v := range all {
		keys := keysOf(t, unhex(t, v.TIK), nil)
		var digest Digest
		copy(digest[:], v.DigestB64)
		if v.Digest == "sha256 of nothing" {
			digest = sha256.Sum256(nil)
		}
		raw := append(v.ResultB64, append(unhex(t, v.MAC), unhex(t, v.MNonce)...)...)
		m, err := ParseMeasurement(base64.StdEncoding.EncodeToString(raw))
		if err != nil {
			t.Fatal(err)
		}
		api := API{v.APIMajor, v.APIMinor, v.Build}
		if !m.Authentic(keys, api, Policy(v.Policy), digest) {
			t.Errorf("vector %d: not authentic", i)
		}
		// Each byte of the MAC must matter.
		for at := range m.MAC {
			forged := m
			forged.MAC[at] ^= 0x80
			if forged.Authentic(keys, api, Policy(v.Policy), digest) {
				t.Errorf("vector %d: authentic with another byte %d of the MAC", i, at)
			}
		}
		// Whatever the MAC covers must matter.
		for name, ok := range map[string]bool{
			"major":  m.Authentic(keys, API{v.APIMajor + 1, v.APIMinor, v.Build}, Policy(v.Policy), digest),
			"minor":  m.Authentic(keys, API{v.APIMajor, v.APIMinor + 1, v.Build}, Policy(v.Policy), digest),
			"build":  m.Authentic(keys, API{v.APIMajor, v.APIMinor, v.Build + 1}, Policy(v.Policy), digest),
			"policy": m.Authentic(keys, api, Policy(v.Policy)^(1<<3), digest),
			"digest": m.Authentic(keys, api, Policy(v.Policy), Digest{}),
			"nonce":  Measurement{MAC: m.MAC}.Authentic(keys, api, Policy(v.Policy), digest),
			"key":    m.Authentic(keysOf(t, nil, nil), api, Policy(v.Policy), digest),
		} {
			if ok {
				t.Errorf("vector %d: authentic with another %s", i, name)
			}
		}
	}
}

func TestSessionVectors(t *testing.T) {
	v := readVectors(t).Session
	z := unhex(t, v.KDF.Z)
	if got := derive(z, v.KDF.Label, unhex(t, v.KDF.Context)); hex.EncodeToString(got[:]) != v.KDF.Key {
		t.Errorf("derive = %x; want %s", got, v.KDF.Key)
	}
	b, err := wrap(z, [16]byte{}, [16]byte{}, keysOf(t, nil, nil), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 16)
	want = append(want, unhex(t, v.Zero.WrapTK)...)
	want = append(want, make([]byte, 16)...)
	want = append(want, unhex(t, v.Zero.WrapMAC)...)
	want = append(want, unhex(t, v.Zero.PolicyMAC)...)
	if !bytes.Equal(b[:], want) {
		t.Errorf("wrap =\n%x; want\n%x", b, want)
	}
}

// TestStart unwraps a blob as a PSP does, with only the private key.
func TestStart(t *testing.T) {
	psp, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	if bytes.Equal(keys.TEK.Bytes(), keys.TIK.Bytes()) || bytes.Equal(keys.TEK.Bytes(), make([]byte, 16)) {
		t.Error("NewKeys drew no two keys")
	}
	blob, own, err := Start(psp.PublicKey(), keys, Strict)
	if err != nil {
		t.Fatal(err)
	}
	z, err := psp.ECDH(own)
	if err != nil {
		t.Fatal(err)
	}
	master := derive(z, "sev-master-secret", blob[:16])
	kek, kik := derive(master[:], "sev-kek", nil), derive(master[:], "sev-kik", nil)
	if got := mac(kik[:], blob[16:48]); !bytes.Equal(got[:], blob[64:96]) {
		t.Error("the MAC over the wrapped keys is wrong")
	}
	block, err := aes.NewCipher(kek[:])
	if err != nil {
		t.Fatal(err)
	}
	var clear [32]byte
	cipher.NewCTR(block, blob[48:64]).XORKeyStream(clear[:], blob[16:48])
	if !bytes.Equal(clear[:16], keys.TEK.Bytes()) || !bytes.Equal(clear[16:], keys.TIK.Bytes()) {
		t.Error("the wrapped keys are not TEK and TIK")
	}
	if got := keys.MAC([]byte{7, 0, 0, 0}); !bytes.Equal(got[:], blob[96:]) {
		t.Error("the MAC over the policy is wrong")
	}
	again, _, err := Start(psp.PublicKey(), keys, Strict)
	if err != nil || bytes.Equal(again[:16], blob[:16]) || bytes.Equal(again[48:64], blob[48:64]) {
		t.Errorf("a second session has the first one's nonce or IV, %v", err)
	}
}

func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, n int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte(name[:1]), n), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := put("good", 16)
	refused := func(err error) bool { return err != nil && strings.Contains(err.Error(), "has 16 raw bytes") }
	for _, n := range []int{0, 15, 17, 32, 16} {
		k, err := ReadKeys(good, put("key", n))
		if refused(err) != (n != 16) || (k != nil) != (n == 16) {
			t.Errorf("ReadKeys with a TEK of %d bytes: %v", n, err)
		}
		if k != nil {
			k.Close()
		}
		if _, err := ReadKeys(put("key", n), good); refused(err) != (n != 16) {
			t.Errorf("ReadKeys with a TIK of %d bytes: %v", n, err)
		}
	}
	if k, err := ReadKeys(good, good); err == nil || !strings.Contains(err.Error(), "the same key") || k != nil {
		t.Errorf("ReadKeys of one key twice: %v, %v; want an error", k, err)
	}
}

func TestParsePolicy(t *testing.T) {
	for s, want := range map[string]Policy{"7": Strict, "0x7": Strict, "0": 0, "0xffffffff": 0xffffffff} {
		if p, err := ParsePolicy(s); err != nil || p != want {
			t.Errorf("ParsePolicy(%s) = %v, %v; want %v", s, p, err, want)
		}
	}
	for _, s := range []string{"", "-1", "0x100000000", "x", "7 "} {
		if _, err := ParsePolicy(s); !errors.Is(err, ErrPolicy) {
			t.Errorf("ParsePolicy(%q) error = %v; want ErrPolicy", s, err)
		}
	}
	if got := Policy(0x33010007).String(); got != "0x33010007 (NODBG NOKS ES API 1.51)" {
		t.Errorf("String = %s", got)
	}
}

// measurements are seeds, and whether they are taken.
var measurements = map[string]bool{
	"lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA": true,
	strings.Repeat("\n", 64): false,
	"":                       false,
	"lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDw=":   false, // 47 bytes
	"lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkA==":   false, // 46
	"lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA\n": false,
	"lswbxWxI9gckya16JQvd tpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA":   false,
}

func FuzzParseMeasurement(f *testing.F) {
	for s := range measurements {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMeasurement(s); err == nil && m.String() != s {
			t.Errorf("ParseMeasurement(%q).String() = %q", s, m)
		}
	})
}

// TestFuzzParseMeasurementSeeds checks that the seeds reach every end of the parser.
func TestFuzzParseMeasurementSeeds(t *testing.T) {
	for s, want := range measurements {
		if _, err := ParseMeasurement(s); (err == nil) != want || (err != nil && !errors.Is(err, ErrMeasurement)) {
			t.Errorf("ParseMeasurement(%q) error = %v; want taken: %v", s, err, want)
		}
	}
}
