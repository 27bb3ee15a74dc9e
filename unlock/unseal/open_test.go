package unseal

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/secmem"
)

// A key that ends in a NUL which is not part of it costs a second derivation,
// but not the memory of two: the child may have that of one.
func TestTrailingNULTakesTheMemoryOnce(t *testing.T) {
	const memory = 96 << 20
	const size = format.RegionSize + 1<<20
	volumeKey := make([]byte, luks2.KeySize)
	if err := format.NewVolumeKey(volumeKey, rand.Reader); err != nil {
		t.Fatal(err)
	}
	image, err := format.New(format.Options{Passphrase: []byte("key"), VolumeKey: volumeKey, KDF: format.Argon2id(1, memory>>10, 1), Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	n, err := luks2.HeaderSize(image)
	if err != nil {
		t.Fatal(err)
	}
	info, err := luks2.Check(image[:n], size, luks2.Limits{RAM: 2 * memory})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, append(image, make([]byte, size-len(image))...), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := secmem.New(4)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	copy(key.Bytes(), "key\x00")

	debug.FreeOSMemory() // Format's
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	// The key opens it, and nothing is mapped: what it opens is another volume.
	info.UUID = "another"
	if err := open(path, info, key); fatal.CodeOf(err, "") != fatal.LUKSHeader {
		t.Fatalf("open = %v; want LUKS-HEADER", err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys - before.HeapSys); grown > memory/2 {
		t.Errorf("the second attempt took %d bytes more from the system", grown)
	}
}
