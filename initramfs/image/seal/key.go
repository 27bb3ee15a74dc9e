package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/initramfs/image/sealed"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/secret/table"
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
	// mostSeed bounds a seed file, in bytes.
	mostSeed = 4096
)

func (o *Options) checkKey(given func(string) bool) error {
	keys := slices.DeleteFunc([]string{o.KeyFile, o.KeyOut, o.PassphraseFile}, func(name string) bool { return name == "" })
	if len(keys) > 1 {
		return fault.Usagef("--key-file, --key-out and --passphrase-file exclude each other")
	}
	for _, name := range []string{"pbkdf-memory", "pbkdf-force-iterations", "pbkdf-parallel"} {
		if given(name) && o.PassphraseFile == "" {
			return fault.Usagef("--%s is for --passphrase-file: a random key needs no stretching", name)
		}
	}
	return nil
}

// MakesKey reports whether a new key is to be made and written.
func (o Options) MakesKey() bool { return o.KeyFile == "" && o.PassphraseFile == "" }

func (o Options) kdf() luks2.KDF {
	if o.PassphraseFile == "" {
		return format.PBKDF2(format.GeneratedKeyIterations)
	}
	return format.Argon2id(o.PBKDFIterations, o.PBKDFMemory, o.PBKDFParallel)
}

// keys are what an image is sealed with.
type keys struct {
	key    *secmem.Buffer // opens the keyslot
	random io.Reader      // for sealed.Options
	sum    *[sha256.Size]byte
}

// readKey reads the key or the passphrase that is brought; nil when one is to
// be made.
func (o Options) readKey(tell Observer) (*secmem.Buffer, error) {
	path, least, hint := o.KeyFile, leastKey, "--passphrase-file takes what people choose; with neither, a new random key is made"
	if o.PassphraseFile != "" {
		path, least, hint = o.PassphraseFile, leastPassphrase, "the host can try passphrases on the image for ever: take a long one"
	}
	if path == "" {
		return nil, nil
	}
	key, err := files.ReadSecret(path, secret.MaxKeySize)
	if err != nil {
		return nil, err
	}
	if len(key.Bytes()) < least {
		key.Close()
		return nil, fault.Hintf(fmt.Errorf("cannot use %s: it has fewer than %d bytes", path, least), "%s", hint)
	}
	table.WarnOfEnding(tell.Warn, path, key.Bytes())
	return key, nil
}

// secrets returns what the image of root is sealed with, and writes a key that
// was made. The key is the caller's to close.
func (o Options) secrets(root *rootfs.Image, brought *secmem.Buffer, out io.Writer) (keys, error) {
	s := keys{key: brought, random: rand.Reader}
	random, err := secmem.New(generatedKey)
	if err != nil {
		return s, err
	}
	defer random.Close()
	if o.SeedFile == "" {
		_, err = rand.Read(random.Bytes())
	} else {
		err = o.derive(root, &s, random.Bytes())
	}
	if err != nil || brought != nil {
		return s, err
	}
	if s.key, err = secmem.New(2 * generatedKey); err != nil {
		return s, err
	}
	hex.Encode(s.key.Bytes(), random.Bytes())
	if _, err = out.Write(s.key.Bytes()); err != nil {
		s.key.Close()
	}
	return s, err
}

// derive hashes the file system and derives what stands for randomness, and a key.
func (o Options) derive(root *rootfs.Image, s *keys, key []byte) error {
	seed, err := files.ReadSecret(o.SeedFile, mostSeed)
	if err != nil {
		return err
	}
	defer seed.Close()
	sum, err := sumOf(root)
	if err != nil {
		return err
	}
	s.sum = &sum
	s.random, err = sealed.Derive(seed.Bytes(), sum, key)
	if errors.Is(err, sealed.ErrSeed) {
		err = fault.Hintf(fmt.Errorf("cannot use %s: %w", o.SeedFile, err), "head -c 32 /dev/urandom >%s makes one", fault.ShellWord(o.SeedFile))
	}
	return err
}

func sumOf(root *rootfs.Image) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(root.File, 0, root.Size)); err != nil {
		return sum, fmt.Errorf("cannot read the file system: %w", err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// keepKey gives the key that is about to be replaced another name as well, with
// the hash of the image that it opens: that image may be deployed. It returns
// the name, or "" where no key is replaced.
func (o Options) keepKey() (string, error) {
	if !o.MakesKey() {
		return "", nil
	}
	old, err := os.Stat(o.KeyOut)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot keep the key: %w", err)
	}
	of := old.ModTime().UTC().Format("20060102T150405") // the best that is known without a command line
	if _, p, err := cmdline.ReadPolicy(o.CmdlineOut); err == nil {
		of = hex.EncodeToString(p.Image.RootHash[:8])
	}
	name := o.KeyOut + "." + of
	err = os.Link(o.KeyOut, name)
	if err != nil && !sameFile(name, o.KeyOut) { // it may be, from a seal that was interrupted
		return "", fault.Hintf(fmt.Errorf("cannot keep the key %s as %s: %w", o.KeyOut, name, err), "move the old key away, or choose another name with --key-out")
	}
	return name, nil
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
