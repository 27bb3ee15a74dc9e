package luks2_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/luks2/internal/layout"
)

const deviceSize = 64 << 20

var passphrase = []byte("correct horse battery staple")

// random returns a source of bytes that is the same in every run.
func random(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func options() format.Options {
	key := make([]byte, luks2.KeySize)
	for i := range key {
		key[i] = byte(i * 7)
	}
	return format.Options{Passphrase: passphrase, VolumeKey: key, KDF: format.PBKDF2(format.GeneratedKeyIterations), Random: random(1)}
}

// region returns a header region that New made.
func region(t testing.TB, o format.Options) []byte {
	t.Helper()
	r, err := format.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r) != format.RegionSize {
		t.Fatalf("New made %d bytes; want %d", len(r), format.RegionSize)
	}
	return r
}

// header returns the first header of a region.
func header(t testing.TB, region []byte) []byte {
	t.Helper()
	n, err := luks2.HeaderSize(region)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(region[:n])
}

// jsonText returns the JSON text of a header.
func jsonText(header []byte) string {
	text, _, _ := layout.Text(header)
	return string(text)
}

// withJSON returns a copy of the header with another JSON text and the
// checksum that belongs to it.
func withJSON(header []byte, text string) []byte {
	h := bytes.Clone(header)
	clear(h[luks2.BinaryHeaderSize:])
	copy(h[luks2.BinaryHeaderSize:], text)
	return resum(h)
}

// resum makes the checksum of a header right.
func resum(h []byte) []byte {
	sum := layout.Checksum(h)
	copy(h[layout.OffChecksum:], sum[:])
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
