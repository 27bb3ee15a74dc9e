// Package sevcert reads the certificates of an SEV platform and verifies the
// chain from AMD's root to the platform's Diffie-Hellman key:
//
//	ARK (AMD's root) → ASK (per generation) → CEK (per chip) → PEK → PDH
//	                                            OCA (its owner) ↗
//
// The formats are those of the SEV API specification (AMD publication 55766,
// appendix B: AMD certificates, appendix C: SEV certificates), as AMDESE/sev-tool
// src/sevapi.h and virtee/sev src/certs/sev have them. All numbers are
// little-endian, those of keys and signatures too.
//
// A chain says that the PDH belongs to a genuine chip. It does not say which
// chip that is, nor that its firmware is recent, nor who owns the machine;
// AMD's formats have no dates, and a revoked chip is not known here.
package sevcert

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of both algorithms
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Size is the size of an SEV certificate in bytes.
const Size = 2084

// MaxFile bounds a file of certificates, in bytes.
const MaxFile = 64 << 10

// Where the parts of an SEV certificate begin, in bytes.
const (
	offUsage = 8
	offAlgo  = 12
	offKey   = 16
	bodySize = 16 + 4 + 2*512 // what is signed: all up to the first signature
	sigSize  = 4 + 4 + 512    // usage, algorithm, signature
	ecSize   = 72             // room for a number of an elliptic curve
)

// Usage is what a key is for (SEV API, appendix C, USAGE).
type Usage uint32

// The usages. Only AMD's format has ARK and ASK.
const (
	ARK Usage = 0x0000
	ASK Usage = 0x0013
	OCA Usage = 0x1001
	PEK Usage = 0x1002
	PDH Usage = 0x1003
	CEK Usage = 0x1004
	// none marks a signature slot that is empty.
	none Usage = 0x1000
)

// String returns the specification's name.
func (u Usage) String() string {
	switch u {
	case ARK:
		return "ARK"
	case ASK:
		return "ASK"
	case OCA:
		return "OCA"
	case PEK:
		return "PEK"
	case PDH:
		return "PDH"
	case CEK:
		return "CEK"
	}
	return fmt.Sprintf("usage %#x", uint32(u))
}

// algorithm names a kind of key in its low byte and a hash in its second
// (SEV API, appendix C, ALGO).
type algorithm uint32

const (
	rsaSHA256   algorithm = 0x001
	ecdsaSHA256 algorithm = 0x002
	ecdhSHA256  algorithm = 0x003
	rsaSHA384   algorithm = 0x101
	ecdsaSHA384 algorithm = 0x102
	ecdhSHA384  algorithm = 0x103
)

// hash returns the hash of the algorithm.
func (a algorithm) hash() crypto.Hash {
	if a&0x100 != 0 {
		return crypto.SHA384
	}
	return crypto.SHA256
}

// Errors returned for a single certificate.
var (
	ErrFormat    = errors.New("not an SEV certificate")
	ErrSignature = errors.New("the signature is not the one that it should be")
	ErrUnsigned  = errors.New("it has no signature of that key")
)

// Certificate is an SEV certificate whose fields have been read. Nothing in it
// is to be believed before its signature has been verified.
type Certificate struct {
	Usage Usage
	algo  algorithm
	key   crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey or *ecdh.PublicKey
	body  []byte
	sigs  [2]signature
}

type signature struct {
	usage Usage
	algo  algorithm
	value []byte
}

// Parse reads one certificate. It comes from the host.
func Parse(b []byte) (*Certificate, error) {
	if len(b) != Size {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrFormat, len(b), Size)
	}
	if v := binary.LittleEndian.Uint32(b); v != 1 {
		return nil, fmt.Errorf("%w: version %d", ErrFormat, v)
	}
	b = slices.Clone(b)
	c := &Certificate{
		Usage: Usage(binary.LittleEndian.Uint32(b[offUsage:])),
		algo:  algorithm(binary.LittleEndian.Uint32(b[offAlgo:])),
		body:  b[:bodySize],
	}
	if c.Usage < OCA || c.Usage > CEK {
		return nil, fmt.Errorf("%w: %s", ErrFormat, c.Usage)
	}
	for i := range c.sigs {
		s := b[bodySize+i*sigSize:][:sigSize]
		c.sigs[i] = signature{Usage(binary.LittleEndian.Uint32(s)), algorithm(binary.LittleEndian.Uint32(s[4:])), s[8:]}
	}
	var err error
	if c.key, err = parseKey(c.algo, b[offKey:bodySize]); err != nil {
		return nil, fmt.Errorf("%w: the key of the %s: %w", ErrFormat, c.Usage, err)
	}
	return c, nil
}

var errKey = errors.New("unknown algorithm, curve or size, or not a point of the curve")

// parseKey reads the 1028 bytes of a public key: for RSA its size in bits,
// exponent and modulus, for curves the curve and the point.
func parseKey(a algorithm, b []byte) (crypto.PublicKey, error) {
	first := binary.LittleEndian.Uint32(b)
	switch a {
	case rsaSHA256, rsaSHA384:
		if first != 2048 && first != 4096 {
			return nil, errKey
		}
		return parseRSA(b[4:516], b[516:516+first/8])
	case ecdsaSHA256, ecdsaSHA384, ecdhSHA256, ecdhSHA384:
		x, y := number(b[4:4+ecSize]), number(b[4+ecSize:4+2*ecSize])
		if first != 2 || x.BitLen() > 384 || y.BitLen() > 384 { // 2: P-384, the only one in use
			return nil, errKey
		}
		point := make([]byte, 97)
		point[0] = 4
		x.FillBytes(point[1:49])
		y.FillBytes(point[49:])
		if a == ecdhSHA256 || a == ecdhSHA384 {
			return ecdh.P384().NewPublicKey(point)
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	}
	return nil, errKey
}

// parseRSA reads little-endian exponent and modulus.
func parseRSA(exponent, modulus []byte) (*rsa.PublicKey, error) {
	e, n := number(exponent), number(modulus)
	if e.BitLen() > 31 || e.Bit(0) == 0 || e.Int64() < 3 || n.BitLen() != len(modulus)*8 {
		return nil, errKey
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// number reads a little-endian number.
func number(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// ECDH returns the key of a PDH.
func (c *Certificate) ECDH() (*ecdh.PublicKey, error) {
	key, ok := c.key.(*ecdh.PublicKey)
	if !ok || c.Usage != PDH {
		return nil, fmt.Errorf("cannot use the %s for a session: %w: no Diffie-Hellman key", c.Usage, ErrFormat)
	}
	return key, nil
}

// sameKey reports whether two certificates are of the same key.
func (c *Certificate) sameKey(o *Certificate) bool { return bytes.Equal(c.body, o.body) }

// signedBy reports whether there is a signature, good or not, of that key.
func (c *Certificate) signedBy(u Usage) bool {
	return c.sigs[0].usage == u || c.sigs[1].usage == u
}

// verify checks that one of the signatures is the signer's.
func (c *Certificate) verify(signer Usage, algo algorithm, key crypto.PublicKey) error {
	err := ErrUnsigned
	for _, s := range c.sigs {
		if s.usage != signer || s.algo != algo {
			continue
		}
		if verifyOne(algo, key, c.body, s.value) {
			return nil
		}
		err = ErrSignature
	}
	return fmt.Errorf("cannot verify the %s with the %s: %w", c.Usage, signer, err)
}

// verifyOne checks one signature: RSA-PSS with a salt as long as the hash, or
// ECDSA.
func verifyOne(algo algorithm, key crypto.PublicKey, body, sig []byte) bool {
	h := algo.hash().New()
	h.Write(body)
	sum := h.Sum(nil)
	switch key := key.(type) {
	case *rsa.PublicKey:
		if len(sig) < key.Size() {
			return false
		}
		s := slices.Clone(sig[:key.Size()])
		slices.Reverse(s)
		return rsa.VerifyPSS(key, algo.hash(), sum, s, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case *ecdsa.PublicKey:
		return ecdsa.Verify(key, sum, number(sig[:ecSize]), number(sig[ecSize:2*ecSize]))
	}
	return false
}

// Owner returns the certificate that an owner presents to the PSP: a PDH with
// his key and no signature: the PSP does not ask for one (AMDESE/sev-tool
// src/sevcert.cpp; virtee/sev sends none either).
func Owner(key *ecdh.PublicKey) ([]byte, error) {
	if key.Curve() != ecdh.P384() {
		return nil, errKey
	}
	b := make([]byte, Size)
	for off, v := range map[int]uint32{
		0: 1, offUsage: uint32(PDH), offAlgo: uint32(ecdhSHA256), offKey: 2,
		bodySize: uint32(none), bodySize + sigSize: uint32(none),
	} {
		binary.LittleEndian.PutUint32(b[off:], v)
	}
	point := key.Bytes() // 4 ‖ x ‖ y, big-endian
	x, y := point[1:49], point[49:]
	slices.Reverse(x)
	slices.Reverse(y)
	copy(b[offKey+4:], x)
	copy(b[offKey+4+ecSize:], y)
	return b, nil
}
