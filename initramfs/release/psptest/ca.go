// Package psptest is only for tests: a platform security processor to test
// against, with a certificate authority of its own in AMD's formats, the launch
// commands that an owner meets, and a QMP server in front of them that records
// what it is asked.
//
// Its code shares nothing with the code it judges: formats and derivations are
// written a second time, from the SEV API specification (AMD publication
// 55766). It protects nothing.
package psptest

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
	"math/big"
	"slices"
	"testing"
)

// The specification's numbers.
const (
	usageARK, usageASK                     = 0x0000, 0x0013
	usageOCA, usagePEK, usagePDH, usageCEK = 0x1001, 0x1002, 0x1003, 0x1004
	algoECDSA, algoECDH                    = 0x002, 0x003
)

// Platform is a chip with its certificates.
type Platform struct {
	ARK, ASK           []byte // AMD's format
	PDH, PEK, OCA, CEK []byte // SEV's format; the CEK as AMD's key server has it
	RawCEK             []byte // as the chip exports it: without AMD's signature

	ark *rsa.PrivateKey
	pdh *ecdh.PrivateKey
}

// NewPlatform makes one whose authority has RSA keys of 2048 bits (with
// SHA-256, as AMD's first generation) or 4096 (with SHA-384).
func NewPlatform(t testing.TB, bits int) *Platform {
	t.Helper()
	ask := must(rsa.GenerateKey(rand.Reader, bits))
	p := &Platform{ark: must(rsa.GenerateKey(rand.Reader, bits)), pdh: must(ecdh.P384().GenerateKey(rand.Reader))}
	p.ARK = amdCertificate(usageARK, 'R', 'R', &p.ark.PublicKey, p.ark)
	p.ASK = amdCertificate(usageASK, 'S', 'R', &ask.PublicKey, p.ark)

	oca, cek, pek := ecKey(), ecKey(), ecKey()
	p.OCA = sevCertificate(usageOCA, algoECDSA, point(&oca.PublicKey))
	signEC(p.OCA, 0, usageOCA, oca)
	p.CEK = sevCertificate(usageCEK, algoECDSA, point(&cek.PublicKey))
	p.RawCEK = slices.Clone(p.CEK)
	signRSA(p.CEK, 0, ask)
	p.PEK = sevCertificate(usagePEK, algoECDSA, point(&pek.PublicKey))
	signEC(p.PEK, 0, usageOCA, oca)
	signEC(p.PEK, 1, usageCEK, cek)
	p.PDH = sevCertificate(usagePDH, algoECDH, p.pdh.PublicKey().Bytes())
	signEC(p.PDH, 0, usagePEK, pek)
	return p
}

// Chain returns all certificates one after the other, as sevctl export --full
// writes them.
func (p *Platform) Chain() []byte {
	return slices.Concat(p.PDH, p.PEK, p.OCA, p.CEK, p.ASK, p.ARK)
}

// Fingerprint is the SHA-256 of the root key's SubjectPublicKeyInfo, in hex.
func (p *Platform) Fingerprint() string {
	sum := sha256.Sum256(must(x509.MarshalPKIXPublicKey(&p.ark.PublicKey)))
	return hex.EncodeToString(sum[:])
}

func ecKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) }

func point(k *ecdsa.PublicKey) []byte { return must(k.Bytes()) }

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
	binary.LittleEndian.PutUint32(b, 1)
	b[4], b[20] = id, signer
	binary.LittleEndian.PutUint32(b[36:], usage)
	binary.LittleEndian.PutUint32(b[56:], uint32(n*8))
	binary.LittleEndian.PutUint32(b[60:], uint32(n*8))
	b = append(b, little(big.NewInt(int64(key.E)), n)...)
	b = append(b, little(key.N, n)...)
	return append(b, pss(b, by)...)
}

// pss is a signature over body in little-endian.
func pss(body []byte, by *rsa.PrivateKey) []byte {
	hash, sum := crypto.SHA256, hashOf(sha256.Sum256(body))
	if by.Size() == 512 {
		s := sha512.Sum384(body)
		hash, sum = crypto.SHA384, s[:]
	}
	sig := must(rsa.SignPSS(rand.Reader, by, hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
	slices.Reverse(sig)
	return sig
}

func hashOf(h [32]byte) []byte { return h[:] }

// sevCertificate is a certificate of appendix C, without signatures, for an
// uncompressed point of P-384.
func sevCertificate(usage, algo uint32, point []byte) []byte {
	b := make([]byte, 2084)
	le := binary.LittleEndian
	le.PutUint32(b[0:], 1)
	le.PutUint32(b[8:], usage)
	le.PutUint32(b[12:], algo)
	le.PutUint32(b[16:], 2)
	copy(b[20:], little(new(big.Int).SetBytes(point[1:49]), 72))
	copy(b[92:], little(new(big.Int).SetBytes(point[49:]), 72))
	le.PutUint32(b[1044:], 0x1000)
	le.PutUint32(b[1564:], 0x1000)
	return b
}

// slot returns one of the two signatures, with usage and algorithm set.
func slot(b []byte, i int, usage, algo uint32) []byte {
	s := b[1044+520*i:][:520]
	binary.LittleEndian.PutUint32(s, usage)
	binary.LittleEndian.PutUint32(s[4:], algo)
	return s[8:]
}

func signEC(b []byte, i int, usage uint32, by *ecdsa.PrivateKey) {
	s := slot(b, i, usage, algoECDSA)
	r, v, err := ecdsa.Sign(rand.Reader, by, hashOf(sha256.Sum256(b[:1044])))
	if err != nil {
		panic(err)
	}
	copy(s, little(r, 72))
	copy(s[72:], little(v, 72))
}

func signRSA(b []byte, i int, by *rsa.PrivateKey) {
	algo := uint32(0x001)
	if by.Size() == 512 {
		algo = 0x101
	}
	copy(slot(b, i, usageASK, algo), pss(b[:1044], by))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
