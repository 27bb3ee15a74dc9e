package sealed

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anatol/luks.go"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/verity"
	"cocoroot/unlock/verity/tree"
)

// sizes of sources: less than a block, whole blocks, and more leaves than workers.
var sizes = []int{1, blockSize, 5*blockSize - 1, 300 * blockSize, 5*tree.LeafSize + 3*blockSize + 5}

func TestStockToolsVerify(t *testing.T) {
	veritysetup := oracle.Tool(t, "veritysetup")
	for _, size := range sizes {
		dst, r := seal(t, source(size), options())
		image := file(t, "image", dst.data)
		if out, err := verify(veritysetup, image, r.Params); err != nil {
			t.Errorf("%d bytes: veritysetup verify: %v\n%s", size, err, out)
		}
		out, err := exec.Command(veritysetup, "verify", image, image, hex.EncodeToString(r.Params.RootHash[:]),
			fmt.Sprintf("--hash-offset=%d", r.Params.DataSize())).CombinedOutput()
		if err != nil {
			t.Errorf("%d bytes: veritysetup verify by the superblock: %v\n%s", size, err, out)
		}
	}
}

// verify has veritysetup check an image with only the parameters.
func verify(veritysetup, image string, p verity.Params) (string, error) {
	out, err := exec.Command(veritysetup, "verify", image, image, hex.EncodeToString(p.RootHash[:]),
		"--no-superblock", "--salt="+p.SaltText(), "--hash=sha256", "--format=1", "--data-block-size=4096", "--hash-block-size=4096",
		fmt.Sprintf("--data-blocks=%d", p.DataBlocks), fmt.Sprintf("--hash-offset=%d", p.HashStart()*blockSize)).CombinedOutput()
	return string(out), err
}

func TestFlippedBitsAreFound(t *testing.T) {
	veritysetup := oracle.Tool(t, "veritysetup")
	dst, r := seal(t, source(200*blockSize+5), options())
	data := int64(r.Params.DataSize())
	top := int64(r.Params.HashStart()) * blockSize
	for name, off := range map[string]int64{
		"magic": 0, "JSON": 5000, "second header": 16384 + 300, "keyslot": 40000, "unused header": dataOffset - 1,
		"first of the ciphertext": dataOffset, "last of the ciphertext": data - 1,
		"top of the tree": top, "leaf of the tree": top + blockSize,
	} {
		bad := bytes.Clone(dst.data)
		bad[off] ^= 0x10
		if out, err := verify(veritysetup, file(t, "image", bad), r.Params); err == nil || !strings.Contains(out, "Verification") {
			t.Errorf("%s: veritysetup verify with byte %d flipped = %v\n%s", name, off, err, out)
		}
	}
	bad := bytes.Clone(dst.data)
	bad[data] ^= 1 // the superblock is nobody's truth
	if out, err := verify(veritysetup, file(t, "image", bad), r.Params); err != nil {
		t.Errorf("veritysetup verify with the superblock changed = %v\n%s", err, out)
	}
}

func TestStockToolsDecrypt(t *testing.T) {
	cryptsetup := oracle.Tool(t, "cryptsetup")
	key := file(t, "key", passphrase)
	for _, size := range sizes {
		o := options()
		if size == blockSize {
			o.KDF = format.Argon2id(4, 64, 2)
		}
		src := source(size)
		dst, r := seal(t, src, o)
		image := file(t, "image", dst.data[:r.Params.DataSize()])
		oracle.Run(t, cryptsetup, "open", "--test-passphrase", "--key-file", key, image)
		dump := oracle.Run(t, cryptsetup, "luksDump", image)
		if !strings.Contains(dump, r.UUID) || !strings.Contains(dump, "offset: 1048576 [bytes]") {
			t.Errorf("luksDump =\n%s\nwant UUID %s and offset 1048576", dump, r.UUID)
		}
		oracle.Run(t, cryptsetup, "reencrypt", "-q", "--decrypt", "--force-offline-reencrypt", "--header", filepath.Join(t.TempDir(), "header"), "--key-file", key, image)
		plain, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		want := append(bytes.Clone(src), make([]byte, int(r.Params.DataSize())-dataOffset-len(src))...)
		if !bytes.Equal(plain[:len(want)], want) {
			t.Errorf("%d bytes: cryptsetup decrypts to something else", size)
		}
	}
}

func TestLibraryUnseals(t *testing.T) {
	dst, r := seal(t, source(3*blockSize), options())
	dev, err := luks.Open(file(t, "image", dst.data[:r.Params.DataSize()]))
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	v, err := dev.UnsealVolume(0, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if v.UUID != r.UUID || v.StorageOffset != dataOffset || v.StorageSize != r.Params.DataSize()-dataOffset || v.StorageSectorSize != blockSize {
		t.Errorf("UnsealVolume = %+v; want what Write reports: %+v", v, r)
	}
}

// file writes data to a new file and returns its path.
func file(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
