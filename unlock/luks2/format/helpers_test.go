package format

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

const deviceSize = 64 << 20

var passphrase = []byte("correct horse battery staple")

// random returns a source of bytes that is the same in every run.
func random(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func options() Options {
	key := make([]byte, luks2.KeySize)
	for i := range key {
		key[i] = byte(i * 7)
	}
	return Options{Passphrase: passphrase, VolumeKey: key, KDF: PBKDF2(GeneratedKeyIterations), Random: random(1)}
}

// region returns a header region that New made, with a UUID of the random bytes
// unless there is one.
func region(t testing.TB, o Options) []byte {
	t.Helper()
	var err error
	if o.UUID == uuid.Nil {
		o.UUID, err = uuid.NewRandomFromReader(o.Random)
	}
	r, errNew := New(o)
	err = errors.Join(err, errNew)
	if err != nil {
		t.Fatal(err)
	}
	if len(r) != RegionSize {
		t.Fatalf("New made %d bytes; want %d", len(r), RegionSize)
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

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
