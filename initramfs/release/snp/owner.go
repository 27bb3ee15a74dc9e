// Package snp is the owner's side of attested release (unlock/release): it
// issues challenges, verifies what an SEV-SNP guest shows, and encrypts and signs
// its secrets; and it carries the frames on the host.
//
// The host is the attacker. It chooses the chip and brings the certificates, and
// all that it says is a claim until the chain up to AMD's root and the report's
// signature are verified. What the guest does with its secrets, whether AMD's
// firmware keeps its promises, and what becomes of a chip in the host's hands,
// nothing here says.
package snp

import (
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secmem"
)

// MaxTable is the longest secret table in bytes that an answer holds: a frame's
// body without signature, encapsulated key (1120 bytes, MLKEM768X25519) and tag.
const MaxTable = release.MaxAnswer - ed25519.SignatureSize - 1120 - 16

// ErrOwner is returned for what is not an owner's key.
var ErrOwner = errors.New("not an owner's key")

// Owner is an owner's key. The private half is in locked memory until Close.
type Owner struct {
	Public ed25519.PublicKey
	seed   *secmem.Buffer
}

// NewOwner makes a key.
func NewOwner() (*Owner, error) {
	seed, err := secmem.New(ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	if _, err := unix.Getrandom(seed.Bytes(), 0); err != nil {
		seed.Close()
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	return newOwner(seed), nil
}

// ReadOwner reads the private half: 32 bytes, as Files writes them.
func ReadOwner(path string) (*Owner, error) {
	seed, err := files.ReadSecret(path, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	if len(seed.Bytes()) != ed25519.SeedSize {
		seed.Close()
		return nil, fmt.Errorf("cannot use %s: %w: it has not %d bytes", path, ErrOwner, ed25519.SeedSize)
	}
	return newOwner(seed), nil
}

func newOwner(seed *secmem.Buffer) *Owner {
	o := &Owner{seed: seed}
	o.use(func(k ed25519.PrivateKey) { o.Public = slices.Clone(k.Public().(ed25519.PublicKey)) })
	return o
}

// use runs f with the private key, and wipes the copy that it gets. What the
// library keeps of it goes with the process.
func (o *Owner) use(f func(ed25519.PrivateKey)) {
	secmem.WithoutResidue(func() {
		k := ed25519.NewKeyFromSeed(o.seed.Bytes())
		defer clear(k)
		f(k)
	})
}

// Close wipes the private half.
func (o *Owner) Close() error { return o.seed.Close() }

// Files returns the key's files: NAME.key, the private half, and NAME.pub.
func (o *Owner) Files(name string) []files.File {
	return []files.File{
		files.Secret(name+".key", o.seed.Bytes()),
		files.Public(name+".pub", []byte(policy.Owner(o.Public).String()+"\n")),
	}
}

// ReadPublic reads the public half, NAME.pub.
func ReadPublic(path string) (policy.Owner, error) {
	b, err := files.Read(path, 1<<10)
	if err != nil {
		return policy.Owner{}, err
	}
	key, err := policy.ParseOwner(strings.TrimSuffix(string(b), "\n"))
	if err != nil {
		// The error would show the text, which may be a private half.
		return key, fmt.Errorf("cannot use %s: %w: it is not NAME.pub of cocoroot owner new", path, ErrOwner)
	}
	return key, nil
}

// Seal encrypts a secret table for the guest that asked, which must have been
// verified, and signs the answer. It also returns what the guest confirms with,
// which is for the owner only.
func (o *Owner) Seal(r Request, table []byte) (Packet, [release.ConfirmSize]byte, error) {
	var confirm [release.ConfirmSize]byte
	if len(table) == 0 || len(table) > MaxTable {
		return Packet{}, confirm, fmt.Errorf("cannot seal a table of %d bytes: at most %d", len(table), MaxTable)
	}
	p := Packet{Transcript: release.Transcript(r.body)}
	enc, s, err := hpke.NewSender(r.key, hpke.HKDFSHA256(), hpke.AES256GCM(), release.Info(p.Transcript))
	var sealed, done []byte
	if err == nil {
		sealed, err = s.Seal(nil, table)
	}
	if err == nil {
		done, err = s.Export("done", release.ConfirmSize)
	}
	if err != nil {
		return Packet{}, confirm, fmt.Errorf("cannot seal the answer: %w", err)
	}
	copy(confirm[:], done)
	sealed = append(enc, sealed...)
	o.use(func(k ed25519.PrivateKey) {
		p.Answer = slices.Concat(ed25519.Sign(k, release.Signed(p.Transcript, sealed)), sealed)
	})
	return p, confirm, nil
}
