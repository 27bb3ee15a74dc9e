package luks2

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const deviceSize = 64 << 20

var passphrase = []byte("correct horse battery staple")

// random returns a source of bytes that is the same in every run.
func random(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func options() Options {
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i * 7)
	}
	return Options{Passphrase: passphrase, VolumeKey: key, KDF: PBKDF2(GeneratedKeyIterations), Random: random(1)}
}

// region returns a header region that Format made.
func region(t testing.TB, o Options) []byte {
	t.Helper()
	r, err := Format(o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r) != HeaderRegion {
		t.Fatalf("Format made %d bytes; want %d", len(r), HeaderRegion)
	}
	return r
}

// header returns the first header of a region.
func header(t testing.TB, region []byte) []byte {
	t.Helper()
	n, err := HeaderSize(region)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(region[:n])
}

// jsonText returns the JSON text of a header.
func jsonText(header []byte) string {
	text, _, _ := bytes.Cut(header[BinaryHeaderSize:], []byte{0})
	return string(text)
}

// withJSON returns a copy of the header with another JSON text and the
// checksum that belongs to it.
func withJSON(header []byte, text string) []byte {
	h := bytes.Clone(header)
	clear(h[BinaryHeaderSize:])
	copy(h[BinaryHeaderSize:], text)
	return resum(h)
}

// resum makes the checksum of a header right.
func resum(h []byte) []byte {
	sum := checksum(h)
	copy(h[offChecksum:], sum[:])
	return h
}

// file writes data to a new file, extended to size bytes, and returns its path.
func file(t *testing.T, name string, data []byte, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, max(size, int64(len(data)))); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustReplace(t *testing.T, s, old, new string) string {
	t.Helper()
	if strings.Count(s, old) == 0 {
		t.Fatalf("%q is not in %q", old, s)
	}
	return strings.Replace(s, old, new, 1)
}
