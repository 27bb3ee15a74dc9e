package sevcert

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// maxBundle bounds the data of a chain in bytes; a complete one has about 12 KiB.
const maxBundle = 64 << 10

// Errors returned for a chain.
var (
	ErrMissing  = errors.New("a certificate of the chain is missing")
	ErrConflict = errors.New("two certificates of one kind have different keys")
	// ErrCEK means that the chip's certificate bears no signature of AMD: the
	// platform itself exports it so.
	ErrCEK = errors.New("the CEK is not signed by AMD")
)

// Bundle collects the certificates of one platform, in any order. Its zero
// value is empty.
type Bundle struct {
	platform map[Usage][]*Certificate
	ask, ark *authority
}

// Add reads what tools write: one certificate or several in a row, in
// binary (sevctl export, AMD's key server) or base64 (QEMU, libvirt).
func (b *Bundle) Add(data []byte) error {
	if len(data) > maxBundle {
		return fmt.Errorf("%w: more than %d bytes", ErrFormat, maxBundle)
	}
	if len(data) > 0 && data[0] != 1 { // a version, little-endian
		text := strings.Join(strings.Fields(string(data)), "")
		binary, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return fmt.Errorf("%w: neither binary nor base64", ErrFormat)
		}
		data = binary
	}
	if len(data) == 0 {
		return fmt.Errorf("%w: nothing in it", ErrFormat)
	}
	for len(data) > 0 {
		var err error
		if data, err = b.addOne(data); err != nil {
			return err
		}
	}
	return nil
}

// addOne takes the first certificate off.
func (b *Bundle) addOne(data []byte) ([]byte, error) {
	if len(data) >= offAlgo {
		if u := Usage(binary.LittleEndian.Uint32(data[offUsage:])); u >= OCA && u <= CEK {
			n := min(len(data), Size)
			c, err := Parse(data[:n])
			if err != nil {
				return nil, err
			}
			return data[n:], b.addPlatform(c)
		}
	}
	a, rest, err := parseAuthority(data)
	if err != nil {
		return nil, err
	}
	slot := &b.ask
	if a.usage == ARK {
		slot = &b.ark
	}
	if *slot != nil && !(*slot).key.Equal(a.key) {
		return nil, fmt.Errorf("%w: %s", ErrConflict, a.usage)
	}
	*slot = a
	return rest, nil
}

// addPlatform keeps every copy of a certificate: they may bear different
// signatures.
func (b *Bundle) addPlatform(c *Certificate) error {
	for _, o := range b.platform[c.Usage] {
		if !o.sameKey(c) {
			return fmt.Errorf("%w: %s", ErrConflict, c.Usage)
		}
	}
	if b.platform == nil {
		b.platform = make(map[Usage][]*Certificate)
	}
	b.platform[c.Usage] = append(b.platform[c.Usage], c)
	return nil
}

// Usages returns what the bundle's certificates are for, from the root down.
func (b *Bundle) Usages() []Usage {
	var all []Usage
	if b.ark != nil {
		all = append(all, ARK)
	}
	if b.ask != nil {
		all = append(all, ASK)
	}
	for _, u := range []Usage{CEK, OCA, PEK, PDH} {
		for range b.platform[u] {
			all = append(all, u)
		}
	}
	return all
}

// Verify checks the chain up to one of the roots. It returns the platform's
// Diffie-Hellman certificate and the name of the root's generation.
func (b *Bundle) Verify(roots Roots) (*Certificate, string, error) {
	for _, u := range []Usage{PDH, PEK, OCA, CEK} {
		if len(b.platform[u]) == 0 {
			return nil, "", fmt.Errorf("cannot verify the certificate chain: %w: %s", ErrMissing, u)
		}
	}
	generation, err := b.verifyCEK(roots)
	if err != nil {
		return nil, "", fmt.Errorf("cannot verify the certificate chain: %w", err)
	}
	pdh, pek, oca, cek := b.platform[PDH][0], b.platform[PEK][0], b.platform[OCA][0], b.platform[CEK][0]
	for _, err := range []error{
		oca.verify(OCA, oca.algo, oca.key),
		pek.verify(OCA, oca.algo, oca.key),
		pek.verify(CEK, cek.algo, cek.key),
		pdh.verify(PEK, pek.algo, pek.key),
	} {
		if err != nil {
			return nil, "", fmt.Errorf("cannot verify the certificate chain: %w", err)
		}
	}
	return pdh, generation, nil
}

// verifyCEK finds the signing key that vouches for the chip: one that was
// given with its root, or one that is known.
func (b *Bundle) verifyCEK(roots Roots) (string, error) {
	asks := roots.asks
	if b.ask != nil {
		given, err := b.verifyASK(roots)
		if err != nil {
			return "", err
		}
		asks = []signer{given}
	}
	var signed bool
	for _, cek := range b.platform[CEK] {
		signed = signed || cek.signedBy(ASK)
		for _, ask := range asks {
			if cek.verify(ASK, rsaAlgorithm(ask.key), ask.key) == nil {
				return ask.generation, nil
			}
		}
	}
	switch {
	case !signed:
		return "", ErrCEK
	case b.ask == nil:
		return "", fmt.Errorf("cannot verify the CEK: %w: no generation whose ASK is known has signed it", ErrSignature)
	default:
		return "", fmt.Errorf("cannot verify the CEK with the ASK: %w", ErrSignature)
	}
}

// verifyASK checks AMD's part of the bundle.
func (b *Bundle) verifyASK(roots Roots) (signer, error) {
	if b.ark == nil {
		return signer{}, fmt.Errorf("%w: ARK", ErrMissing)
	}
	generation, ok := roots.arks[fingerprint(b.ark.key)]
	if !ok {
		return signer{}, fmt.Errorf("%w: SHA-256 %x", ErrRoot, fingerprint(b.ark.key))
	}
	if !verifyOne(rsaAlgorithm(b.ark.key), b.ark.key, b.ask.body, b.ask.sig) {
		return signer{}, fmt.Errorf("cannot verify the ASK with the ARK: %w", ErrSignature)
	}
	return signer{generation, b.ask.key}, nil
}
