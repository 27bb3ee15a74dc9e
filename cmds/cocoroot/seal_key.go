package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"cocoroot/unlock/secmem"
)

const (
	// generatedKey is the randomness in a generated key, bytes; it is
	// written as twice as many hex digits, for some carriers of secrets cut
	// at the first NUL.
	generatedKey = 32
	// leastKey is the shortest key file in bytes. A key is not stretched, so
	// it must not be a passphrase that somebody could guess.
	leastKey = 32
	// mostKey is what the guest reads at most.
	mostKey = 1024
)

// key reads the key file, or makes a new key and writes it.
func (o sealOptions) key(a *app, files *outputs) (*secmem.Buffer, error) {
	if o.keyFile != "" {
		key, err := secmem.ReadFile(o.keyFile, mostKey)
		if err != nil {
			return nil, err
		}
		if len(key.Bytes()) < leastKey {
			key.Close()
			return nil, hinted(fmt.Errorf("cannot use %s: a key has at least %d bytes", o.keyFile, leastKey),
				"without --key-file a new random key is made")
		}
		warnOfEnding(a, o.keyFile, key.Bytes())
		return key, nil
	}
	f, err := files.create(o.keyOut, 0o600, o.force)
	if err != nil {
		return nil, err
	}
	random, err := secmem.New(generatedKey)
	if err != nil {
		return nil, err
	}
	defer random.Close()
	if _, err := rand.Read(random.Bytes()); err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	key, err := secmem.New(2 * generatedKey)
	if err != nil {
		return nil, err
	}
	hex.Encode(key.Bytes(), random.Bytes())
	if _, err := f.Write(key.Bytes()); err != nil {
		key.Close()
		return nil, fmt.Errorf("cannot write %s: %w", o.keyOut, err)
	}
	return key, nil
}
