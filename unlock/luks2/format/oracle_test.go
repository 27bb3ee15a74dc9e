package format

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/anatol/luks.go"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/luks2"
)

// kdfs are the ones that the tools' tests format with: cheap, one of each.
var kdfs = map[string]luks2.KDF{"pbkdf2": PBKDF2(1000), "argon2id": Argon2id(4, 64, 2)}

func TestCryptsetupOpensFormat(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	keyFile := file(t, "key", passphrase, 0)
	for name, kdf := range kdfs {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.KDF = kdf
			image := file(t, "image", region(t, o), 8<<20)
			oracle.Run(t, cryptsetup, "open", "--test-passphrase", "--key-file", keyFile, image)
			dump := oracle.Run(t, cryptsetup, "luksDump", image)
			for _, want := range []string{
				"offset: 1048576 [bytes]", "length: (whole device)", "cipher: aes-xts-plain64", "sector: 4096 [bytes]",
				"Key:        512 bits", "PBKDF:      " + name, "AF stripes: 4000",
				"Area offset:32768 [bytes]", "Area length:258048 [bytes]", "Keyslots area: \t1015808 [bytes]", "(no flags)",
			} {
				if !strings.Contains(dump, want) {
					t.Errorf("luksDump =\n%s\nwant %q in it", dump, want)
				}
			}
			key := t.TempDir() + "/volume-key"
			oracle.Run(t, cryptsetup, "luksDump", "-q", "--dump-volume-key", "--volume-key-file", key, "--key-file", keyFile, image)
			if got, err := os.ReadFile(key); err != nil || !bytes.Equal(got, o.VolumeKey) {
				t.Errorf("cryptsetup finds the volume key %x, %v; want %x", got, err, o.VolumeKey)
			}
			// A tool that repairs headers has nothing to do here.
			oracle.Run(t, cryptsetup, "repair", "-q", image)
			after, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(after[:RegionSize], region(t, withRandom(o))) {
				t.Error("cryptsetup repair changed the header")
			}
		})
	}
}

// withRandom puts the source of random bytes back to its start.
func withRandom(o Options) Options {
	o.Random = random(1)
	return o
}

func TestCryptsetupRecoversFromTheSecondHeader(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	r := region(t, options())
	clear(r[:4096])
	image := file(t, "image", r, 8<<20)
	oracle.Run(t, cryptsetup, "repair", "-q", image)
	oracle.Run(t, cryptsetup, "open", "--test-passphrase", "--key-file", file(t, "key", passphrase, 0), image)
}

func TestLibraryUnsealsFormat(t *testing.T) {
	for name, kdf := range kdfs {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.KDF = kdf
			r := region(t, o)
			unseal(t, r, 8<<20)
			dev, err := luks.Open(file(t, "image", r, 8<<20))
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			if _, err := dev.UnsealVolume(0, []byte("wrong")); err != luks.ErrPassphraseDoesNotMatch {
				t.Errorf("UnsealVolume(wrong passphrase) = %v; want ErrPassphraseDoesNotMatch", err)
			}
		})
	}
}

// unseal checks the header of an image, and that the library which
// unlocks it reads the same from it.
func unseal(t *testing.T, image []byte, size int64) luks2.Info {
	t.Helper()
	path := file(t, "image", image, size)
	info, err := luks2.Check(header(t, image), uint64(max(size, int64(len(image)))), luks2.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := luks.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	v, err := dev.UnsealVolume(info.Keyslot, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if v.UUID != info.UUID || v.StorageOffset != info.Offset || v.StorageSize != info.Size || v.StorageSectorSize != info.SectorSize ||
		v.StorageEncryption != info.Encryption || v.StorageIvTweak != 0 || len(v.Flags) != 0 || v.LuksType != "LUKS2" {
		t.Errorf("the library reads %+v\nCheck reads %+v", v, info)
	}
	return info
}

// TestCheckAcceptsCryptsetup holds Check against headers that cryptsetup
// made, in all the ways that the documentation names.
func TestCheckAcceptsCryptsetup(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	key := file(t, "key", passphrase, 0)
	cheap := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	argon := func(kind string) []string {
		return []string{"--pbkdf", kind, "--pbkdf-memory", "64", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2"}
	}
	format := func(t *testing.T, image string, args ...string) {
		oracle.Run(t, cryptsetup, append([]string{"luksFormat", "-q", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--key-file", key, image}, args...)...)
	}
	tests := map[string]struct {
		make func(t *testing.T, image string)
		want func(luks2.Info) bool
	}{
		"pbkdf2, 4096": {func(t *testing.T, i string) { format(t, i, append(cheap, "--sector-size", "4096")...) }, func(i luks2.Info) bool { return i.SectorSize == 4096 && i.KDF == PBKDF2(1000) }},
		"pbkdf2, 512":  {func(t *testing.T, i string) { format(t, i, append(cheap, "--sector-size", "512")...) }, func(i luks2.Info) bool { return i.SectorSize == 512 }},
		"argon2id":     {func(t *testing.T, i string) { format(t, i, argon("argon2id")...) }, func(i luks2.Info) bool { return i.KDF == Argon2id(4, 64, i.KDF.CPUs) }},
		"argon2i":      {func(t *testing.T, i string) { format(t, i, argon("argon2i")...) }, func(i luks2.Info) bool { return i.KDF.Type == "argon2i" }},
		"sha512":       {func(t *testing.T, i string) { format(t, i, append(cheap, "--hash", "sha512")...) }, func(i luks2.Info) bool { return true }},
		"keyslot 5":    {func(t *testing.T, i string) { format(t, i, append(cheap, "--key-slot", "5")...) }, func(i luks2.Info) bool { return i.Keyslot == 5 }},
		"small header": {func(t *testing.T, i string) { format(t, i, append(cheap, "--offset", "2048")...) }, func(i luks2.Info) bool { return i.Offset == 1<<20 }},
		"large JSON":   {func(t *testing.T, i string) { format(t, i, append(cheap, "--luks2-metadata-size", "64k")...) }, func(i luks2.Info) bool { return i.HeaderSize == 64<<10 }},
		"labels":       {func(t *testing.T, i string) { format(t, i, append(cheap, "--label", "root", "--subsystem", "x")...) }, func(i luks2.Info) bool { return true }},
		"high priority": {func(t *testing.T, i string) {
			format(t, i, cheap...)
			oracle.Run(t, cryptsetup, "config", "--key-slot", "0", "--priority", "prefer", i)
		}, func(i luks2.Info) bool { return true }},
		"key changed": {func(t *testing.T, i string) {
			format(t, i, cheap...)
			oracle.Run(t, cryptsetup, append([]string{"luksAddKey", "-q", "--key-file", key, i, key}, cheap...)...)
			oracle.Run(t, cryptsetup, "luksKillSlot", "-q", "--key-file", key, i, "0")
		}, func(i luks2.Info) bool { return i.Keyslot == 1 }},
		"encrypted in place": {func(t *testing.T, i string) {
			oracle.Run(t, cryptsetup, append([]string{"reencrypt", "-q", "--encrypt", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--reduce-device-size", "32M", "--key-file", key, i}, cheap...)...)
		}, func(i luks2.Info) bool { return i.Offset == 16<<20 }},
		"reencrypted": {func(t *testing.T, i string) {
			format(t, i, cheap...)
			oracle.Run(t, cryptsetup, append([]string{"reencrypt", "-q", "--key-file", key, "--force-offline-reencrypt", i}, cheap...)...)
		}, func(i luks2.Info) bool { return i.Keyslot == 1 || i.Keyslot == 0 }},
		"converted from LUKS1": {func(t *testing.T, i string) {
			oracle.Run(t, cryptsetup, "luksFormat", "-q", "--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256", "--pbkdf-force-iterations", "1000", "--key-file", key, i)
			if _, err := luks2.HeaderSize(start(t, i)); err == nil || !strings.Contains(err.Error(), "a LUKS1 header") {
				t.Errorf("HeaderSize of a LUKS1 header = %v; want an error that says so", err)
			}
			oracle.Run(t, cryptsetup, "convert", "-q", "--type", "luks2", i)
			_, err := luks2.Check(header(t, start(t, i)), 40<<20, luks2.Limits{})
			var field *luks2.FieldError
			if !errors.As(err, &field) || field.Field != "digests.0.digest" {
				t.Errorf("Check of a converted header = %v; want a FieldError of its digest", err)
			}
			oracle.Run(t, cryptsetup, append([]string{"reencrypt", "-q", "--key-file", key, "--force-offline-reencrypt", i}, cheap...)...)
		}, func(i luks2.Info) bool { return i.Offset == 2<<20 }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			image := file(t, "image", nil, 40<<20)
			test.make(t, image)
			if info := unseal(t, start(t, image), 40<<20); !test.want(info) {
				t.Errorf("Check = %+v", info)
			}
		})
	}
}

// TestCheckRefusesCryptsetup: headers that cryptsetup makes and the guest
// must not take.
func TestCheckRefusesCryptsetup(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	key := file(t, "key", passphrase, 0)
	for name, args := range map[string][]string{
		"cbc":     {"--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"},
		"AES-128": {"--cipher", "aes-xts-plain64", "--key-size", "256"},
		"sha1":    {"--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha1"},
	} {
		image := file(t, "image", nil, 20<<20)
		oracle.Run(t, cryptsetup, append([]string{"luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, image}, args...)...)
		if info, err := luks2.Check(header(t, start(t, image)), 20<<20, luks2.Limits{}); err == nil {
			t.Errorf("%s: Check = %+v; want an error", name, info)
		}
	}
	image := file(t, "image", nil, 20<<20)
	oracle.Run(t, cryptsetup, "luksFormat", "-q", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, image)
	oracle.Run(t, cryptsetup, "luksAddKey", "-q", "--key-file", key, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", image, key)
	if info, err := luks2.Check(header(t, start(t, image)), 20<<20, luks2.Limits{}); err == nil {
		t.Errorf("two keyslots: Check = %+v; want an error", info)
	}
}

// start returns the first 4 MiB of a file: header and keyslots.
func start(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data[:4<<20]
}
