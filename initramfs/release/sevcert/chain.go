package sevcert

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-sev-guest/verify/trust"

	"cocoroot/initramfs/fault"
)

// Errors returned for a chain.
var (
	ErrMissing = fault.Hintf(errors.New("a certificate of the chain is missing"),
		"sevctl export, cocoroot release platform, or QEMU's pdh and cert-chain have the platform's; AMD's go to --amd-ca")
	// ErrCEK means that the chip's certificate bears no signature of AMD: the
	// platform itself exports it so.
	ErrCEK = fault.Hintf(errors.New("the CEK is not signed by AMD"),
		"get the signed one from https://kdsintf.amd.com/cek/id/ID, where ID is the platform's cpu0-id, and name its file too")
	errRoot = fault.Hintf(errors.New("the root key is not one that is known to be AMD's"),
		"if you know this key to be AMD's, --amd-root believes it")
	errUnknown = fault.Hintf(fmt.Errorf("%w: no generation whose ASK is known has signed it", ErrSignature),
		"for Naples and Rome, and generations after Turin, AMD's certificates are named with --amd-ca")
)

// Bundle collects the certificates of one platform, in any order. Its zero
// value is empty.
type Bundle struct {
	// Every copy is kept: they may bear different signatures.
	all map[Usage][]*Certificate
}

// Add reads what tools write: one certificate or several in a row, in
// binary (sevctl export, AMD's key server) or base64 (QEMU, libvirt).
func (b *Bundle) Add(data []byte) error {
	if len(data) > MaxFile {
		return fmt.Errorf("%w: more than %d bytes", ErrFormat, MaxFile)
	}
	if len(data) > 0 && data[0] != 1 { // a version, little-endian
		var err error
		data, err = base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(string(data)), ""))
		if err != nil {
			return fmt.Errorf("%w: neither binary nor base64", ErrFormat)
		}
	}
	if len(data) == 0 {
		return fmt.Errorf("%w: nothing in it", ErrFormat)
	}
	if b.all == nil {
		b.all = make(map[Usage][]*Certificate)
	}
	for len(data) > 0 {
		c, rest, err := parseFirst(data)
		if err != nil {
			return err
		}
		if known := b.all[c.Usage]; len(known) > 0 && !known[0].sameKey(c) {
			return fmt.Errorf("two certificates of one kind have different keys: %s", c.Usage)
		}
		b.all[c.Usage] = append(b.all[c.Usage], c)
		data = rest
	}
	return nil
}

func parseFirst(data []byte) (*Certificate, []byte, error) {
	if len(data) >= offAlgo {
		if u := Usage(binary.LittleEndian.Uint32(data[offUsage:])); u >= OCA && u <= CEK {
			n := min(len(data), Size)
			c, err := Parse(data[:n])
			return c, data[n:], err
		}
	}
	return parseAMD(data)
}

// Usages returns what the bundle's certificates are for, from the root down.
func (b *Bundle) Usages() []Usage {
	var usages []Usage
	for _, u := range []Usage{ARK, ASK, CEK, OCA, PEK, PDH} {
		for range b.all[u] {
			usages = append(usages, u)
		}
	}
	return usages
}

// Verify checks the chain up to one of the roots. It returns the platform's
// Diffie-Hellman certificate and the name of the root's generation.
func (b *Bundle) Verify(roots Roots) (pdh *Certificate, generation string, err error) {
	for _, u := range []Usage{PDH, PEK, OCA, CEK} {
		if len(b.all[u]) == 0 {
			return nil, "", fmt.Errorf("cannot verify the certificate chain: %w: %s", ErrMissing, u)
		}
	}
	generation, err = b.verifyCEK(roots)
	for _, link := range [][2]Usage{{OCA, OCA}, {PEK, OCA}, {PEK, CEK}, {PDH, PEK}} {
		if err == nil {
			err = b.all[link[0]][0].verify(b.all[link[1]][0])
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot verify the certificate chain: %w", err)
	}
	return b.all[PDH][0], generation, nil
}

// verifyCEK finds the signing key that vouches for the chip: one that was
// given with its root, or one that is known.
func (b *Bundle) verifyCEK(roots Roots) (generation string, err error) {
	asks := roots.asks
	if len(b.all[ASK]) > 0 {
		given, err := b.verifyASK(roots)
		if err != nil {
			return "", err
		}
		asks = []signer{given}
	}
	for _, ask := range asks {
		if signedBy(b.all[CEK], ask.Certificate) != nil {
			return ask.generation, nil
		}
	}
	err = ErrSignature
	switch {
	case !slices.ContainsFunc(b.all[CEK], func(c *Certificate) bool { return c.hasSlot(ASK) }):
		return "", ErrCEK
	case len(b.all[ASK]) == 0:
		err = errUnknown
	}
	return "", fmt.Errorf("cannot verify the CEK with the ASK: %w", err)
}

// signedBy returns the first copy that a signer has signed, or nil.
func signedBy(copies []*Certificate, signer *Certificate) *Certificate {
	i := slices.IndexFunc(copies, func(c *Certificate) bool { return c.verify(signer) == nil })
	if i < 0 {
		return nil
	}
	return copies[i]
}

// verifyASK checks AMD's part of the bundle.
func (b *Bundle) verifyASK(roots Roots) (signer, error) {
	if len(b.all[ARK]) == 0 {
		return signer{}, fmt.Errorf("%w: ARK", ErrMissing)
	}
	ark := b.all[ARK][0]
	generation, ok := roots.arks[fingerprint(ark.key)]
	if !ok {
		return signer{}, fmt.Errorf("%w: SHA-256 %s", errRoot, fingerprint(ark.key))
	}
	if ask := signedBy(b.all[ASK], ark); ask != nil {
		return signer{generation, ask}, nil
	}
	return signer{}, fmt.Errorf("cannot verify the ASK with the ARK: %w", ErrSignature)
}

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
// 2019): a chain up from there does not say that there is a chip at its other end.
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
