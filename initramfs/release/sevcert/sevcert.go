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
	"cmp"
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

// MaxFile bounds a file of certificates, in bytes; a complete chain has about
// 12 KiB.
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

// Where the parts of an AMD certificate begin, in bytes (appendix B): version
// u32, key ID 16, ID of the signing key 16, usage u32, reserved 16, sizes of
// exponent and modulus in bits, exponent, modulus, signature.
const (
	amdUsage    = 36
	amdExpSize  = 56
	amdModSize  = 60
	amdKeyStart = 64
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
	names := map[Usage]string{ARK: "ARK", ASK: "ASK", OCA: "OCA", PEK: "PEK", PDH: "PDH", CEK: "CEK"}
	return cmp.Or(names[u], fmt.Sprintf("usage %#x", uint32(u)))
}

// algorithm names a kind of key in its low byte and a hash in its second
// (SEV API, appendix C, ALGO).
type algorithm uint32

const (
	rsaKey   algorithm = 1
	ecdsaKey algorithm = 2
	ecdhKey  algorithm = 3
	sha384   algorithm = 0x100 // a bit of a hash; without it, it is SHA-256
)

func (a algorithm) hash() crypto.Hash {
	if a&sha384 != 0 {
		return crypto.SHA384
	}
	return crypto.SHA256
}

// Errors returned for a single certificate.
var (
	ErrFormat    = errors.New("not an SEV certificate")
	ErrSignature = errors.New("it has no good signature of that key")
)

// Certificate is a certificate of either format whose fields have been read.
// Nothing in it is to be believed before its signature has been verified.
type Certificate struct {
	Usage Usage
	algo  algorithm        // of what the key signs
	key   crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey or *ecdh.PublicKey
	body  []byte           // what is signed
	sigs  []signature
}

type signature struct {
	usage Usage
	algo  algorithm
	value []byte
}

// Parse reads one certificate in SEV's format. It comes from the host.
func Parse(b []byte) (*Certificate, error) {
	if len(b) != Size {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrFormat, len(b), Size)
	}
	b = slices.Clone(b)
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	c := &Certificate{Usage: Usage(word(offUsage)), algo: algorithm(word(offAlgo)), body: b[:bodySize]}
	if v := word(0); v != 1 || c.Usage < OCA || c.Usage > CEK {
		return nil, fmt.Errorf("%w: version %d, %s", ErrFormat, v, c.Usage)
	}
	for at := bodySize; at < Size; at += sigSize {
		c.sigs = append(c.sigs, signature{Usage(word(at)), algorithm(word(at + 4)), b[at+8 : at+sigSize]})
	}
	var err error
	if c.key, err = parseKey(c.algo, b[offKey:bodySize]); err != nil {
		return nil, fmt.Errorf("%w: the key of the %s: %w", ErrFormat, c.Usage, err)
	}
	return c, nil
}

// parseAMD reads the AMD certificate that b begins with, and returns what
// follows it. The ARK of Naples is published without its signature; as its key
// is known, none is asked for where the data ends with the key.
func parseAMD(b []byte) (*Certificate, []byte, error) {
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	if len(b) < amdKeyStart || word(0) != 1 {
		return nil, nil, fmt.Errorf("%w: neither SEV's nor AMD's format", ErrFormat)
	}
	usage, bits := Usage(word(amdUsage)), word(amdModSize)
	size := int(bits / 8)
	end := amdKeyStart + 2*size
	switch {
	case usage != ARK && usage != ASK:
		return nil, nil, fmt.Errorf("%w: %s", ErrFormat, usage)
	case bits != 2048 && bits != 4096, word(amdExpSize) != bits, len(b) < end:
		return nil, nil, fmt.Errorf("%w: the size of the %s's key", ErrFormat, usage)
	}
	key, err := parseRSA(b[amdKeyStart:amdKeyStart+size], b[amdKeyStart+size:end])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the key of the %s: %w", ErrFormat, usage, err)
	}
	c := newRSA(usage, key)
	c.body = slices.Clone(b[:end])
	rest := b[end:]
	switch {
	case len(rest) >= size:
		c.sigs = []signature{{ARK, c.algo, slices.Clone(rest[:size])}}
		return c, rest[size:], nil
	case usage == ARK && len(rest) == 0:
		return c, nil, nil
	}
	return nil, nil, fmt.Errorf("%w: the %s is cut short", ErrFormat, usage)
}

// newRSA is a certificate of AMD's, which signs with a hash by the size of its key.
func newRSA(u Usage, key *rsa.PublicKey) *Certificate {
	algo := rsaKey // of Naples
	if key.Size() > 256 {
		algo |= sha384
	}
	return &Certificate{Usage: u, algo: algo, key: key}
}

var errKey = errors.New("unknown algorithm, curve or size, or not a point of the curve")

// parseKey reads the 1028 bytes of a public key: for RSA its size in bits,
// exponent and modulus, for curves the curve and the point.
func parseKey(a algorithm, b []byte) (crypto.PublicKey, error) {
	first := binary.LittleEndian.Uint32(b)
	switch a &^ sha384 {
	case rsaKey:
		if first != 2048 && first != 4096 {
			return nil, errKey
		}
		return parseRSA(b[4:516], b[516:516+first/8])
	case ecdsaKey, ecdhKey:
		x, y := number(b[4:4+ecSize]), number(b[4+ecSize:4+2*ecSize])
		if first != 2 || x.BitLen() > 384 || y.BitLen() > 384 { // 2: P-384, the only one in use
			return nil, errKey
		}
		point := make([]byte, 97)
		point[0] = 4
		x.FillBytes(point[1:49])
		y.FillBytes(point[49:])
		if a&^sha384 == ecdhKey {
			return ecdh.P384().NewPublicKey(point)
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	}
	return nil, errKey
}

func parseRSA(exponent, modulus []byte) (*rsa.PublicKey, error) {
	e, n := number(exponent), number(modulus)
	if e.BitLen() > 31 || e.Bit(0) == 0 || e.Int64() < 3 || n.BitLen() != len(modulus)*8 {
		return nil, errKey
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func number(b []byte) *big.Int { return new(big.Int).SetBytes(reversed(b)) }

func reversed(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}

// ECDH returns the key of a PDH.
func (c *Certificate) ECDH() (*ecdh.PublicKey, error) {
	key, ok := c.key.(*ecdh.PublicKey)
	if !ok || c.Usage != PDH {
		return nil, fmt.Errorf("cannot use the %s for a session: %w: no Diffie-Hellman key", c.Usage, ErrFormat)
	}
	return key, nil
}

// hasSlot reports whether there is a signature, good or not, of that key.
func (c *Certificate) hasSlot(u Usage) bool {
	return slices.ContainsFunc(c.sigs, func(s signature) bool { return s.usage == u })
}

// verify checks that one of the signatures is the signer's.
func (c *Certificate) verify(signer *Certificate) error {
	for _, s := range c.sigs {
		if s.usage == signer.Usage && s.algo == signer.algo && signer.signed(c.body, s.value) {
			return nil
		}
	}
	return fmt.Errorf("cannot verify the %s with the %s: %w", c.Usage, signer.Usage, ErrSignature)
}

// signed checks one signature of the certificate's key: RSA-PSS with a salt as
// long as the hash, or ECDSA.
func (c *Certificate) signed(body, sig []byte) bool {
	h := c.algo.hash().New()
	h.Write(body)
	sum := h.Sum(nil)
	switch key := c.key.(type) {
	case *rsa.PublicKey:
		options := rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		return len(sig) >= key.Size() && rsa.VerifyPSS(key, c.algo.hash(), sum, reversed(sig[:key.Size()]), &options) == nil
	case *ecdsa.PublicKey:
		return ecdsa.Verify(key, sum, number(sig[:ecSize]), number(sig[ecSize:2*ecSize]))
	}
	return false
}

func (c *Certificate) sameKey(o *Certificate) bool { return bytes.Equal(c.body, o.body) }

// Owner returns the certificate that an owner presents to the PSP: a PDH with
// his key and no signature: the PSP does not ask for one (AMDESE/sev-tool
// src/sevcert.cpp; virtee/sev sends none either).
func Owner(key *ecdh.PublicKey) ([]byte, error) {
	if key.Curve() != ecdh.P384() {
		return nil, errKey
	}
	b := make([]byte, Size)
	for off, v := range map[int]uint32{
		0: 1, offUsage: uint32(PDH), offAlgo: uint32(ecdhKey), offKey: 2,
		bodySize: uint32(none), bodySize + sigSize: uint32(none),
	} {
		binary.LittleEndian.PutUint32(b[off:], v)
	}
	point := key.Bytes() // 4 ‖ x ‖ y, big-endian
	copy(b[offKey+4:], reversed(point[1:49]))
	copy(b[offKey+4+ecSize:], reversed(point[49:]))
	return b, nil
}
