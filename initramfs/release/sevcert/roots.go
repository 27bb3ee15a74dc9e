package sevcert

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"github.com/google/go-sev-guest/verify/trust"

	"cocoroot/initramfs/fault"
)

// Roots are the root keys to be believed, and the signing keys that come with
// them.
type Roots struct {
	arks map[string]string // the generation by the fingerprint
	asks []signer
}

// signer is an ASK that was verified, or needs no file.
type signer struct {
	generation string
	*Certificate
}

// fingerprint is the SHA-256 of a public key's SubjectPublicKeyInfo in DER, as
// openssl pkey -pubin -outform DER | sha256sum prints it.
func fingerprint(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err) // an RSA key is always written
	}
	return fmt.Sprintf("%x", sha256.Sum256(der))
}

// Naples is the name of the first generation. The key of a chip of it (CEK) can
// be extracted with nothing but software, and stays the same through updates of
// its firmware (Buhren, Werling, Seifert: "Insecure Until Proven Updated", CCS
// 2019): a chain that ends there does not say that a chip is at its begin.
const Naples = "Naples"

// AMDRoots returns AMD's roots. ARK and ASK of Milan, Genoa and Turin are
// those of github.com/google/go-sev-guest: the same keys sign SEV and SEV-SNP.
// For Naples and Rome the ARK's fingerprint is known and the certificates have
// to be given. A fingerprint that is added is the owner's own choice, for a
// generation that this program does not know.
func AMDRoots(added string) (Roots, error) {
	// These two only ever signed SEV platforms. Both are those of ask_ark_naples.cert
	// and ask_ark_rome.cert on AMD's developer pages, as virtee/sev at 9cf2adb keeps
	// them in src/certs/sev/builtin, with the key IDs that AMDESE/sev-tool
	// src/amdcert.h at 147a4f1 has: 1bb987c3… and e6002122….
	r := Roots{arks: map[string]string{
		"3a04f8f1347de206c9206a81148ba4ef0a233b245d43a15dd82de043bb3e4f69": Naples,
		"7447ffa21e2b938bfade89f5e9066c00a328813bfc43685605cceabd18da6fde": "Rome",
	}}
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
		r.asks = append(r.asks, signer{name, newRSA(ASK, ask)})
	}
	if added != "" {
		sum, err := hex.DecodeString(added)
		if err != nil || len(sum) != sha256.Size {
			return Roots{}, fault.Usagef("--amd-root: %.80q is not the SHA-256 of a key: 64 hex digits", added)
		}
		r.arks[hex.EncodeToString(sum)] = "the root given"
	}
	return r, nil
}
