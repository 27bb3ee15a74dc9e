package main_test

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/pbkdf2"
	"golang.org/x/crypto/xts"

	"cocoroot/unlock/luks2"
)

// keyslot is what the tests read of a LUKS2 header that they made themselves.
type keyslot struct {
	Area struct{ Offset, Size string }
	KDF  struct {
		Type, Salt         string
		Iterations         int
		Time, Memory, CPUs uint32
	}
}

// needlesOf returns everything secret that comes of unlocking the image with
// its passphrase: the passphrase itself, what the key derivation makes of it,
// the keyslot decrypted, and the volume key.
func needlesOf(t *testing.T, image string, passphrase []byte) []needle {
	t.Helper()
	slot, digest := readHeader(t, image)
	kek, needles := derive(t, slot, passphrase)
	needles = append(forms("passphrase", passphrase), needles...)
	split := decryptArea(t, image, slot, kek)
	needles = append(needles, needle{"keyslot's first stripes", split[:256]}, needle{"keyslot's last stripes", split[len(split)-256:]})
	chain, volume := merge(split)
	if !bytes.Equal(pbkdf2.Key(volume, decode64(t, digest.Salt), digest.Iterations, sha256.Size, sha256.New), decode64(t, digest.Digest)) {
		t.Fatal("the test's own volume key is not the image's")
	}
	needles = append(needles, needle{"chain of stripes", chain})
	return append(needles, forms(volumeKey, volume)...)
}

// derivedFrom returns what the key derivation makes of any passphrase.
func derivedFrom(t *testing.T, image string, passphrase []byte) []needle {
	t.Helper()
	slot, _ := readHeader(t, image)
	_, needles := derive(t, slot, passphrase)
	return needles
}

// derive returns the key of the keyslot, and what to look for.
func derive(t *testing.T, slot keyslot, passphrase []byte) ([]byte, []needle) {
	t.Helper()
	salt := decode64(t, slot.KDF.Salt)
	if slot.KDF.Type == "pbkdf2" {
		kek := pbkdf2.Key(passphrase, salt, slot.KDF.Iterations, luks2.KeySize, sha256.New)
		return kek, append(forms("keyslot's key", kek),
			needle{"HMAC's inner pad", pad(passphrase, 0x36)}, needle{"HMAC's outer pad", pad(passphrase, 0x5c)})
	}
	kek := argon2.IDKey(passphrase, salt, slot.KDF.Time, slot.KDF.Memory, uint8(slot.KDF.CPUs), luks2.KeySize)
	return kek, append(forms("keyslot's key", kek), needle{"Argon2's first hash", argon2Start(slot, passphrase, salt)})
}

// volumeKey is the name of the one needle that a running guest may hold.
const volumeKey = "volume key"

type digest struct {
	Salt, Digest string
	Iterations   int
}

func readHeader(t *testing.T, image string) (keyslot, digest) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	header := make([]byte, 16<<10)
	if _, err := f.ReadAt(header, 0); err != nil {
		t.Fatal(err)
	}
	text, _, _ := bytes.Cut(header[luks2.BinaryHeaderSize:], []byte{0})
	var meta struct {
		Keyslots map[string]keyslot
		Digests  map[string]digest
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		t.Fatal(err)
	}
	return meta.Keyslots["0"], meta.Digests["0"]
}

func decode64(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pad returns the block that HMAC-SHA-256 makes of a key of up to 64 bytes.
func pad(key []byte, with byte) []byte {
	block := make([]byte, sha256.BlockSize)
	copy(block, key)
	for i := range block {
		block[i] ^= with
	}
	return block
}

// argon2Start returns H0 (RFC 9106, section 3.2), from which everything that
// Argon2id does follows.
func argon2Start(slot keyslot, passphrase, salt []byte) []byte {
	var in []byte
	for _, n := range []uint32{slot.KDF.CPUs, luks2.KeySize, slot.KDF.Memory, slot.KDF.Time, 0x13, 2, uint32(len(passphrase))} {
		in = binary.LittleEndian.AppendUint32(in, n)
	}
	in = append(in, passphrase...)
	in = binary.LittleEndian.AppendUint32(in, uint32(len(salt)))
	in = append(in, salt...)
	sum := blake2b.Sum512(append(in, make([]byte, 8)...)) // neither secret nor associated data
	return sum[:]
}

// decryptArea returns the volume key as it is split in the keyslot's area.
func decryptArea(t *testing.T, image string, slot keyslot, kek []byte) []byte {
	t.Helper()
	const size, sector = 4000 * luks2.KeySize, 512
	offset, err := strconv.ParseInt(slot.Area.Offset, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	area := read(t, image)[offset:][:size]
	c, err := xts.NewCipher(aes.NewCipher, kek)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < size; i += sector {
		c.Decrypt(area[i:i+sector], area[i:i+sector], uint64(i/sector))
	}
	return area
}

// merge returns the chain of all stripes but the last, and with it the volume key.
func merge(split []byte) (chain, key []byte) {
	chain, key = make([]byte, luks2.KeySize), make([]byte, luks2.KeySize)
	for len(split) > luks2.KeySize {
		for i := range chain {
			chain[i] ^= split[i]
		}
		for i := 0; i < len(chain); i += sha256.Size {
			sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(i/sha256.Size)), chain[i:i+sha256.Size]...))
			copy(chain[i:], sum[:])
		}
		split = split[luks2.KeySize:]
	}
	for i := range key {
		key[i] = chain[i] ^ split[i]
	}
	return chain, key
}
