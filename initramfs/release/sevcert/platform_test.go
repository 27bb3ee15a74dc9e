package sevcert

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math/big"
	"os"
	"slices"
	"testing"
)

// A platform with a certificate authority of its own in AMD's formats. Its code
// shares nothing with the code it judges: the formats are written a second time,
// from the SEV API specification (AMD publication 55766).

var update = flag.Bool("update", false, "write another testdata/platform.json")

// TestPlatformFile checks the platform that the tests of cmds/cocoroot have; with
// -update it makes another one.
func TestPlatformFile(t *testing.T) {
	const path = "testdata/platform.json"
	if *update {
		if err := os.WriteFile(path, must(json.MarshalIndent(newPlatform(t, 2048), "", "\t")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var p platform
	if err := json.Unmarshal(must(os.ReadFile(path)), &p); err != nil {
		t.Fatal(err)
	}
	var b Bundle
	if err := b.Add(p.chain()); err != nil {
		t.Fatal(err)
	}
	pdh, _, err := b.Verify(rootsOf(t, &p))
	if err != nil {
		t.Fatal(err)
	}
	if key := must(ecdh.P384().NewPrivateKey(p.Key)); !key.PublicKey().Equal(pdh.key) {
		t.Error("the private key is not that of the PDH")
	}
}

// The specification's numbers.
const (
	usageARK, usageASK                     = 0x0000, 0x0013
	usageOCA, usagePEK, usagePDH, usageCEK = 0x1001, 0x1002, 0x1003, 0x1004
	algoECDSA, algoECDH                    = 0x002, 0x003
)

// platform is a chip with its certificates.
type platform struct {
	ARK, ASK           []byte // AMD's format
	PDH, PEK, OCA, CEK []byte // SEV's format; the CEK as AMD's key server has it
	RawCEK             []byte // as the chip exports it: without AMD's signature

	Root string // SHA-256 of the root key's SubjectPublicKeyInfo, in hex
	Key  []byte // of the PDH: its private half
}

// newPlatform makes one whose authority has RSA keys of 2048 bits (with
// SHA-256, as AMD's first generation) or 4096 (with SHA-384).
func newPlatform(t testing.TB, bits int) *platform {
	t.Helper()
	ask, ark := must(rsa.GenerateKey(rand.Reader, bits)), must(rsa.GenerateKey(rand.Reader, bits))
	pdh := must(ecdh.P384().GenerateKey(rand.Reader))
	root := sha256.Sum256(must(x509.MarshalPKIXPublicKey(&ark.PublicKey)))
	p := &platform{Root: hex.EncodeToString(root[:]), Key: pdh.Bytes()}
	p.ARK = amdCertificate(usageARK, 'R', 'R', &ark.PublicKey, ark)
	p.ASK = amdCertificate(usageASK, 'S', 'R', &ask.PublicKey, ark)

	oca, cek, pek := ecKey(), ecKey(), ecKey()
	p.OCA = sevCertificate(usageOCA, algoECDSA, point(oca), issuer{usageOCA, oca})
	p.CEK = sevCertificate(usageCEK, algoECDSA, point(cek), issuer{usageASK, ask})
	p.RawCEK = sevCertificate(usageCEK, algoECDSA, point(cek))
	p.PEK = sevCertificate(usagePEK, algoECDSA, point(pek), issuer{usageOCA, oca}, issuer{usageCEK, cek})
	p.PDH = sevCertificate(usagePDH, algoECDH, pdh.PublicKey().Bytes(), issuer{usagePEK, pek})
	return p
}

// chain returns all certificates one after the other, as sevctl export --full
// writes them.
func (p *platform) chain() []byte {
	return slices.Concat(p.PDH, p.PEK, p.OCA, p.CEK, p.ASK, p.ARK)
}

func ecKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) }

func point(k *ecdsa.PrivateKey) []byte { return must(k.PublicKey.Bytes()) }

// little returns a number as n bytes, little-endian.
func little(v *big.Int, n int) []byte {
	b := v.FillBytes(make([]byte, n))
	slices.Reverse(b)
	return b
}

// amdCertificate is a certificate of appendix B.
func amdCertificate(usage uint32, id, signer byte, key *rsa.PublicKey, by *rsa.PrivateKey) []byte {
	n := key.Size()
	b := make([]byte, 64, 64+3*n)
	b[0], b[4], b[20] = 1, id, signer
	for at, v := range map[int]uint32{36: usage, 56: uint32(n * 8), 60: uint32(n * 8)} {
		binary.LittleEndian.PutUint32(b[at:], v)
	}
	b = append(b, little(big.NewInt(int64(key.E)), n)...)
	b = append(b, little(key.N, n)...)
	_, sig := signed(b, by)
	return append(b, sig...)
}

// issuer is a key of a usage, that signs.
type issuer struct {
	usage uint32
	key   crypto.Signer
}

// sevCertificate is a certificate of appendix C for an uncompressed point of
// P-384, with up to two signatures.
func sevCertificate(usage, algo uint32, point []byte, by ...issuer) []byte {
	b := make([]byte, 2084)
	put := func(at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
	for at, v := range map[int]uint32{0: 1, 8: usage, 12: algo, 16: 2, 1044: 0x1000, 1564: 0x1000} {
		put(at, v)
	}
	copy(b[20:], little(new(big.Int).SetBytes(point[1:49]), 72))
	copy(b[92:], little(new(big.Int).SetBytes(point[49:]), 72))
	for i, s := range by {
		at := 1044 + 520*i
		algo, sig := signed(b[:1044], s.key)
		put(at, s.usage)
		put(at+4, algo)
		copy(b[at+8:], sig)
	}
	return b
}

// signed returns an algorithm's number and its signature, little-endian.
func signed(body []byte, by crypto.Signer) (algo uint32, sig []byte) {
	sum := sha256.Sum256(body)
	if key, ok := by.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		must(r, err)
		return algoECDSA, append(little(r, 72), little(s, 72)...)
	}
	algo, hash, digest := 0x001, crypto.SHA256, sum[:]
	if by.Public().(*rsa.PublicKey).Size() == 512 {
		sum := sha512.Sum384(body)
		algo, hash, digest = 0x101, crypto.SHA384, sum[:]
	}
	sig = must(by.Sign(rand.Reader, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}))
	slices.Reverse(sig)
	return algo, sig
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
