package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

// Hostile LUKS2 headers whose hash is right: the image's owner was made to
// hash them, or the header was bad before. unlock/luks2/testdata/hostile has
// one of each kind; here two of them meet the real chain.

func TestNullCipherInTheSegment(t *testing.T) {
	t.Parallel()
	s := standardImage(t)
	// The attack as a whole: after a header that the right key opens, and
	// that names no cipher, lies a program of the attacker's in the clear.
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	makeSquashfs(t, testRoot(t, dir, ""), plain)
	header := luksHeader(t, s, format.PBKDF2(format.GeneratedKeyIterations),
		`"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`)
	e := hashed(t, s, append(header, read(t, plain)...)).fails(t, "LUKS-HEADER")
	blames(t, e, "segments.0.encryption")
}

func TestArgon2BeyondTheMemory(t *testing.T) {
	t.Parallel()
	s := standardImage(t)
	header := luksHeader(t, s, format.Argon2id(4, 64, 1), `"memory":64,`, `"memory":614400,`)
	g := hashed(t, s, append(header, make([]byte, 1<<20)...))
	g.memory = 1024
	blames(t, g.fails(t, "LUKS-HEADER"), "keyslots.0.kdf.memory", "luksConvertKey")
}

// blames sees what the FATAL line says.
func blames(t *testing.T, e ended, want ...string) {
	t.Helper()
	for _, w := range want {
		if e.Fatal != nil && !strings.Contains(e.Fatal.Text, w) {
			t.Errorf("FATAL text = %q; want %q in it", e.Fatal.Text, w)
		}
	}
}

// luksHeader makes a header region that the image's key opens, and changes
// the JSON text of its first header, checksum included.
func luksHeader(t *testing.T, s sealedImage, kdf luks2.KDF, old, new string) []byte {
	t.Helper()
	key := make([]byte, luks2.KeySize)
	if err := format.NewVolumeKey(key, rand.Reader); err != nil {
		t.Fatal(err)
	}
	region, err := format.New(format.Options{Passphrase: s.key, VolumeKey: key, KDF: kdf, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	size, err := luks2.HeaderSize(region)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := bytes.Cut(region[luks2.BinaryHeaderSize:size], []byte{0})
	changed := strings.Replace(string(text), old, new, 1)
	if changed == string(text) {
		t.Fatalf("%q is not in the header", old)
	}
	header := region[:size]
	clear(header[luks2.BinaryHeaderSize:])
	copy(header[luks2.BinaryHeaderSize:], changed)
	checksum := header[448:512] // LUKS2 specification, section 2.1; taken over itself as zeros
	clear(checksum)
	sum := sha256.Sum256(header)
	copy(checksum, sum[:])
	return region
}

// hashed writes an image of data and its hash tree, and returns a guest whose
// measured command line has that hash.
func hashed(t *testing.T, s sealedImage, data []byte) *guest {
	t.Helper()
	data = append(data, make([]byte, -len(data)&(verity.BlockSize-1))...)
	g := s.boots(t)
	var params verity.Params
	g.image, params = withTree(t, data, []byte("salt"))
	g.cmdline = strings.Replace(s.cmdline, s.policy.Image.String(), params.String(), 1)
	return g
}

// withTree writes a file of data and its hash tree.
func withTree(t *testing.T, data, salt []byte) (string, verity.Params) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	area := io.NewOffsetWriter(f, int64(len(data)))
	builder, err := tree.NewBuilder(area, uint64(len(data)/verity.BlockSize), salt)
	if err != nil {
		t.Fatal(err)
	}
	for leaf := range (len(data) + tree.LeafSize - 1) / tree.LeafSize {
		if err := builder.Add(uint64(leaf), data[leaf*tree.LeafSize:min((leaf+1)*tree.LeafSize, len(data))]); err != nil {
			t.Fatal(err)
		}
	}
	params, err := builder.Finish([16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return f.Name(), params
}
