package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cocoroot/initramfs/oracle"
)

var update = flag.Bool("update", false, "write template.btrfs from what mkfs.btrfs makes")

// pinned is the SHA-256 of the template.
const pinned = "9371d43f9d14fe62ad593591f1ff319f8d87ea1e856a25bcdd98ea227d8bdcdb"

// encode finds the parts of an image that are not zero.
func encode(t *testing.T, image string) []byte {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const gap = 12 // zeros that are as long as what tells of a part
	var out []byte
	var block [nodeSize]byte
	for offset := 0; ; offset += nodeSize {
		if _, err := io.ReadFull(f, block[:]); err == io.EOF {
			if offset != templateSize {
				t.Fatalf("the image has %d bytes; want %d", offset, templateSize)
			}
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < nodeSize; {
			if block[at] == 0 {
				at++
				continue
			}
			end := at + 1
			for i := end; i < nodeSize && i-end < gap; i++ {
				if block[i] != 0 {
					end = i + 1
				}
			}
			out = binary.LittleEndian.AppendUint32(out, uint32(offset+at))
			out = binary.LittleEndian.AppendUint32(out, uint32(end-at))
			out = append(out, block[at:end]...)
			at = end
		}
	}
}

// The template is what Debian's mkfs.btrfs makes today.
func TestTemplateIsOfMkfs(t *testing.T) {
	want := encode(t, oracle.Fixture(t, "btrfs/image"))
	if *update {
		if err := os.WriteFile("template.btrfs", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(template, want) {
		t.Errorf("template.btrfs has %d bytes that are not those of mkfs.btrfs, which are %d; make it anew with go test -run TestTemplateIsOfMkfs . -update", len(template), len(want))
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(template)); got != pinned {
		t.Errorf("the template's hash is %s; want %s", got, pinned)
	}
}

// What format writes is a file system for btrfs's own checker, under its new
// identity, and nothing of the old one is left.
func TestIdentity(t *testing.T) {
	checker := oracle.Fixture(t, "btrfs/btrfs")
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(templateSize); err != nil {
		t.Fatal(err)
	}
	id := [16]byte([]byte("sixteen letters!"))
	count := 0
	for offset, block := range blocks(template) {
		identify(block, id)
		if bytes.Contains(block, []byte(templateID)) {
			t.Errorf("the block at %d has the template's identity", offset)
		}
		if _, err := f.WriteAt(block, offset); err != nil {
			t.Fatal(err)
		}
		count++
	}
	t.Logf("%d blocks in %d bytes", count, len(template))
	out, err := exec.Command(checker, "check", "--check-data-csum", image).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("UUID: 73697874-6565-6e20-6c65-747465727321")) || !bytes.Contains(out, []byte("no error found")) {
		t.Errorf("btrfs check: %v:\n%s", err, out)
	}
}
