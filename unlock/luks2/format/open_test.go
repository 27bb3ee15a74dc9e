package format

import (
	"bytes"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/luks2"
)

// TestReaderOfCryptsetups decrypts what cryptsetup encrypted, header and data.
func TestReaderOfCryptsetups(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	plain := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(plain)
	key := file(t, "key", passphrase, 0)
	for _, kdf := range [][]string{
		{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
		{"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64"},
		{"--pbkdf", "argon2i", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64"},
	} {
		for _, sector := range []string{"512", "4096"} {
			image := file(t, "image", plain, int64(len(plain))+32<<20)
			oracle.Run(t, cryptsetup, append([]string{"reencrypt", "-q", "--encrypt", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
				"--sector-size", sector, "--reduce-device-size", "32M", "--key-file", key}, append(kdf, image)...)...)
			data, err := os.ReadFile(filepath.Clean(image))
			if err != nil {
				t.Fatal(err)
			}
			r := bytes.NewReader(data)
			info, err := luks2.Check(header(t, data), uint64(len(data)), luks2.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := VolumeKey(r, header(t, data), info, []byte("wrong")); !errors.Is(err, ErrPassphrase) {
				t.Errorf("%s: another passphrase: %v; want ErrPassphrase", kdf[1], err)
			}
			volume, err := VolumeKey(r, header(t, data), info, passphrase)
			if err != nil {
				t.Fatalf("%s: %v", kdf[1], err)
			}
			defer volume.Close()
			for _, n := range []int{1, 4096, 5000, len(plain)} {
				if got, err := Start(r, info, volume.Bytes(), uint64(n)); err != nil || !bytes.Equal(got, plain[:n]) {
					t.Errorf("%s, sectors of %s: the first %d bytes: %v, or other bytes", kdf[1], sector, n, err)
				}
			}
		}
	}
}
