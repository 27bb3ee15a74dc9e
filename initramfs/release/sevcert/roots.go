package sevcert

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/verify/trust"
)

// ErrRoot is returned for a root key that is not known to be AMD's.
var ErrRoot = errors.New("the root key is not one that is known to be AMD's")

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

func fingerprint(key crypto.PublicKey) Fingerprint {
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

// signer is an ASK that was verified, or needs no file.
type signer struct {
	generation string
	*Certificate
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
		ask, ok := root.ProductCerts.Ask.PublicKey.(*rsa.PublicKey)
		if !ok {
			return Roots{}, fmt.Errorf("cannot read AMD's roots: %w: %s", ErrFormat, name)
		}
		r.arks[fingerprint(root.ProductCerts.Ark.PublicKey)] = name
		r.asks = append(r.asks, signer{name, &Certificate{Usage: ASK, algo: rsaAlgorithm(ask), key: ask}})
	}
	return r, nil
}

// Trust makes the owner's own choice of a root key, for a generation that this
// program does not know.
func (r Roots) Trust(f Fingerprint) { r.arks[f] = "the root given" }
