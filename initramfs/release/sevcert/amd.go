package sevcert

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-sev-guest/verify/trust"
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

// ErrRoot is returned for a root key that is not known to be AMD's.
var ErrRoot = errors.New("the root key is not one that is known to be AMD's")

// authority is an AMD certificate: ARK or ASK.
type authority struct {
	usage     Usage
	key       *rsa.PublicKey
	body, sig []byte
}

// parseAuthority reads the AMD certificate that b begins with, and returns
// what follows it. The ARK of Naples is published without its signature; as
// its key is known, none is asked for where the data ends with the key.
func parseAuthority(b []byte) (*authority, []byte, error) {
	if len(b) < amdKeyStart || binary.LittleEndian.Uint32(b) != 1 {
		return nil, nil, fmt.Errorf("%w: neither SEV's nor AMD's format", ErrFormat)
	}
	a := &authority{usage: Usage(binary.LittleEndian.Uint32(b[amdUsage:]))}
	bits := binary.LittleEndian.Uint32(b[amdModSize:])
	size := int(bits / 8)
	switch {
	case a.usage != ARK && a.usage != ASK:
		return nil, nil, fmt.Errorf("%w: %s", ErrFormat, a.usage)
	case bits != 2048 && bits != 4096, binary.LittleEndian.Uint32(b[amdExpSize:]) != bits, len(b) < amdKeyStart+2*size:
		return nil, nil, fmt.Errorf("%w: the size of the %s's key", ErrFormat, a.usage)
	}
	end := amdKeyStart + 2*size
	a.body = slices.Clone(b[:end])
	var err error
	if a.key, err = parseRSA(a.body[amdKeyStart:amdKeyStart+size], a.body[amdKeyStart+size:]); err != nil {
		return nil, nil, fmt.Errorf("%w: the key of the %s: %w", ErrFormat, a.usage, err)
	}
	if rest := b[end:]; len(rest) >= size {
		a.sig = slices.Clone(rest[:size])
		return a, rest[size:], nil
	} else if a.usage == ARK && len(rest) == 0 {
		return a, nil, nil
	}
	return nil, nil, fmt.Errorf("%w: the %s is cut short", ErrFormat, a.usage)
}

// rsaAlgorithm is the one that AMD signs with, by the size of its key.
func rsaAlgorithm(key *rsa.PublicKey) algorithm {
	if key.Size() == 256 {
		return rsaSHA256 // Naples
	}
	return rsaSHA384
}

// Fingerprint is the SHA-256 of a public key's SubjectPublicKeyInfo in DER, as
// openssl pkey -pubin -outform DER | sha256sum prints it.
type Fingerprint [sha256.Size]byte

// ParseFingerprint reads 64 hex digits.
func ParseFingerprint(s string) (Fingerprint, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size {
		return Fingerprint{}, fmt.Errorf("%.80q is not the SHA-256 of a key: 64 hex digits", s)
	}
	return Fingerprint(b), nil
}

func fingerprint(key *rsa.PublicKey) Fingerprint {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err) // an RSA key is always written
	}
	return sha256.Sum256(der)
}

// Roots are the root keys to be believed, and the signing keys that come with
// them.
type Roots struct {
	arks map[Fingerprint]string // by generation
	asks []signer
}

// signer is an ASK that needs no file.
type signer struct {
	generation string
	key        *rsa.PublicKey
}

// The root keys that go-sev-guest does not have, for they only ever signed SEV
// platforms. Both are those of ask_ark_naples.cert and ask_ark_rome.cert on
// AMD's developer pages, as virtee/sev at 9cf2adb keeps them in
// src/certs/sev/builtin, with the key IDs that AMDESE/sev-tool src/amdcert.h at
// 147a4f1 has: 1bb987c3… and e6002122….
const (
	naplesARK = "3a04f8f1347de206c9206a81148ba4ef0a233b245d43a15dd82de043bb3e4f69"
	romeARK   = "7447ffa21e2b938bfade89f5e9066c00a328813bfc43685605cceabd18da6fde"
)

// Naples is the name of the first generation. The key of a chip of it (CEK) can
// be extracted with nothing but software, and stays the same through updates of
// its firmware (Buhren, Werling, Seifert: "Insecure Until Proven Updated", CCS
// 2019): a chain that ends there does not say that a chip is at its begin.
const Naples = "Naples"

// AMDRoots returns AMD's roots. ARK and ASK of Milan, Genoa and Turin are
// those of github.com/google/go-sev-guest: the same keys sign SEV and SEV-SNP.
// For Naples and Rome the ARK's fingerprint is known and the certificates have
// to be given.
func AMDRoots() (Roots, error) {
	r := Roots{arks: make(map[Fingerprint]string)}
	for name, hexDigits := range map[string]string{Naples: naplesARK, "Rome": romeARK} {
		f, err := ParseFingerprint(hexDigits)
		if err != nil {
			return Roots{}, err
		}
		r.arks[f] = name
	}
	for _, name := range []string{"Milan", "Genoa", "Turin"} {
		root, err := trust.GetDefaultRootCerts(name)
		if err != nil {
			return Roots{}, fmt.Errorf("cannot read AMD's roots: %w", err)
		}
		ark, okARK := root.ProductCerts.Ark.PublicKey.(*rsa.PublicKey)
		ask, okASK := root.ProductCerts.Ask.PublicKey.(*rsa.PublicKey)
		if !okARK || !okASK {
			return Roots{}, fmt.Errorf("cannot read AMD's roots: %w: %s", ErrFormat, name)
		}
		r.arks[fingerprint(ark)] = name
		r.asks = append(r.asks, signer{name, ask})
	}
	return r, nil
}

// Trust makes the owner's own choice of a root key, for a generation that this
// program does not know.
func (r Roots) Trust(f Fingerprint) { r.arks[f] = "the root given" }
