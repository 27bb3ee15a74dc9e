package session

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/secmem"
)

// KeySize is the size in bytes of each transport key.
const KeySize = 16

// Keys are the transport keys of one session, in locked memory. Whoever has
// them can read what the owner injects, and can forge a measurement.
type Keys struct {
	TEK *secmem.Buffer // encrypts secrets (transport encryption key)
	TIK *secmem.Buffer // authenticates secrets and measurements (transport integrity key)
}

// NewKeys draws a pair.
func NewKeys() (*Keys, error) {
	k := new(Keys)
	for _, b := range []**secmem.Buffer{&k.TEK, &k.TIK} {
		var err error
		if *b, err = secmem.New(KeySize); err != nil {
			k.Close()
			return nil, err
		}
		rand.Read((*b).Bytes()) // never fails
	}
	return k, nil
}

// ReadKeys reads a pair from the files that sevctl and cocoroot write.
func ReadKeys(tik, tek string) (*Keys, error) {
	k := new(Keys)
	var err error
	if k.TIK, err = readKey(tik); err == nil {
		k.TEK, err = readKey(tek)
	}
	if err == nil && hmac.Equal(k.TIK.Bytes(), k.TEK.Bytes()) {
		err = fmt.Errorf("cannot use %s and %s: TIK and TEK are the same key", tik, tek)
	}
	if err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

func readKey(path string) (*secmem.Buffer, error) {
	b, err := files.ReadSecret(path, KeySize)
	short := err == nil && len(b.Bytes()) != KeySize
	if short || errors.Is(err, secmem.ErrTooLong) || errors.Is(err, secmem.ErrEmpty) {
		b.Close()
		return nil, fmt.Errorf("cannot use %s: a transport key has %d raw bytes", path, KeySize)
	}
	return b, err
}

// Close wipes the keys. It may be called twice.
func (k *Keys) Close() error {
	return errors.Join(k.TEK.Close(), k.TIK.Close())
}

// MAC returns the HMAC-SHA-256 of the parts under the integrity key.
func (k *Keys) MAC(parts ...[]byte) [sha256.Size]byte {
	return mac(k.TIK.Bytes(), parts...)
}

func mac(key []byte, parts ...[]byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
