package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/initramfs/image/sealed"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
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
	// leastPassphrase is the shortest passphrase in bytes. The host has the
	// image, and all the time there is to try.
	leastPassphrase = 12
	// mostKey is what the guest reads at most.
	mostKey = 1024
	// mostSeed bounds a seed file, in bytes.
	mostSeed = 4096
)

// keyFlags adds the options about the key.
func (o *sealOptions) keyFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.keyFile, "key-file", "", "use this key: at least 32 random bytes, all of which count (default: make a new one)")
	flags.StringVar(&o.keyOut, "key-out", "", "where to write the new key (default: IMAGE.key, mode 0600)")
	flags.StringVar(&o.passphraseFile, "passphrase-file", "", "use this passphrase, which argon2id makes dear to guess: at least 12 bytes, all of which count")
	flags.Uint32Var(&o.pbkdfMemory, "pbkdf-memory", 256<<10, "with a passphrase: argon2id's memory in KiB; the guest gives half of its own at most")
	flags.Uint32Var(&o.pbkdfIterations, "pbkdf-force-iterations", 4, "with a passphrase: argon2id's passes over the memory")
	flags.Uint8Var(&o.pbkdfParallel, "pbkdf-parallel", 4, "with a passphrase: argon2id's lanes, which as many CPUs work on")
	flags.StringVar(&o.seedFile, "deterministic-from", "", "derive key, volume key, salts and UUIDs from this seed, at least 32 random bytes, and the file system: the same image each time")
}

// checkKey refuses options about the key that do not fit together.
func (o *sealOptions) checkKey(given func(string) bool) error {
	if n := count(o.keyFile != "", o.keyOut != "", o.passphraseFile != ""); n > 1 {
		return fault.Usagef("--key-file, --key-out and --passphrase-file exclude each other")
	}
	for _, name := range []string{"pbkdf-memory", "pbkdf-force-iterations", "pbkdf-parallel"} {
		if given(name) && o.passphraseFile == "" {
			return fault.Usagef("--%s is for --passphrase-file: a random key needs no stretching", name)
		}
	}
	return nil
}

func count(all ...bool) int {
	n := 0
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// makesKey reports whether a new key is to be made and written.
func (o sealOptions) makesKey() bool { return o.keyFile == "" && o.passphraseFile == "" }

// kdf returns how the key of the keyslot is made.
func (o sealOptions) kdf() luks2.KDF {
	if o.passphraseFile == "" {
		return format.PBKDF2(format.GeneratedKeyIterations)
	}
	return format.Argon2id(o.pbkdfIterations, o.pbkdfMemory, o.pbkdfParallel)
}

// keys are what an image is sealed with.
type keys struct {
	key    *secmem.Buffer // opens the keyslot
	random io.Reader      // for sealed.Options
	sum    *[sha256.Size]byte
}

// readKey reads the key or the passphrase that is brought; nil when one is to
// be made.
func (o sealOptions) readKey(a *app) (*secmem.Buffer, error) {
	path, least, hint := o.keyFile, leastKey, "--passphrase-file takes what people choose; with neither, a new random key is made"
	if o.passphraseFile != "" {
		path, least, hint = o.passphraseFile, leastPassphrase, "the host can try passphrases on the image for ever: take a long one"
	}
	if path == "" {
		return nil, nil
	}
	key, err := secmem.ReadFile(path, mostKey)
	if err != nil {
		return nil, err
	}
	if len(key.Bytes()) < least {
		key.Close()
		return nil, fault.Hintf(fmt.Errorf("cannot use %s: it has fewer than %d bytes", path, least), "%s", hint)
	}
	warnOfEnding(a, path, key.Bytes())
	return key, nil
}

// secrets returns what the image of root is sealed with, and writes a key that
// was made. The key is the caller's to close.
func (o sealOptions) secrets(root *rootfs.Image, brought *secmem.Buffer, out io.Writer) (keys, error) {
	s := keys{key: brought, random: rand.Reader}
	fill := func(p []byte) error { _, err := rand.Read(p); return err }
	if o.seedFile != "" {
		derived, err := o.derive(root, &s)
		if err != nil {
			return s, err
		}
		defer derived.Wipe()
		fill = derived.Key
	}
	if brought != nil {
		return s, nil
	}
	random, err := secmem.New(generatedKey)
	if err != nil {
		return s, err
	}
	defer random.Close()
	if err := fill(random.Bytes()); err != nil {
		return s, fmt.Errorf("cannot make a key: %w", err)
	}
	if s.key, err = secmem.New(2 * generatedKey); err != nil {
		return s, err
	}
	hex.Encode(s.key.Bytes(), random.Bytes())
	if _, err := out.Write(s.key.Bytes()); err != nil {
		s.key.Close()
		return s, fmt.Errorf("cannot write %s: %w", o.keyOut, err)
	}
	return s, nil
}

// derive hashes the file system and derives what stands for randomness.
func (o sealOptions) derive(root *rootfs.Image, s *keys) (sealed.Derived, error) {
	seed, err := secmem.ReadFile(o.seedFile, mostSeed)
	if err != nil {
		return sealed.Derived{}, err
	}
	defer seed.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(root.File, 0, root.Size)); err != nil {
		return sealed.Derived{}, fmt.Errorf("cannot read the file system: %w", err)
	}
	s.sum = (*[sha256.Size]byte)(h.Sum(nil))
	derived, err := sealed.Derive(seed.Bytes(), *s.sum)
	if errors.Is(err, sealed.ErrSeed) {
		err = fault.Hintf(fmt.Errorf("cannot use %s: %w", o.seedFile, err), "head -c 32 /dev/urandom >%s makes one", o.seedFile)
	}
	if err != nil {
		return derived, err
	}
	s.random, err = derived.Stream()
	return derived, err
}
