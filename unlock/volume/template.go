package volume

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// template is an empty file system of templateSize bytes as mkfs.btrfs makes
// it (initramfs/oracle/fixtures/btrfs): the parts that are not zero, each after its offset u32
// and its length u32 in bytes, little-endian.
//
//go:embed template.btrfs
var template []byte

const (
	templateSize = 64 << 20
	// templateID is the identity of the file system in the template, of which
	// every volume gets another.
	templateID = "cocoroot-volume!"
	// nodeSize is that of a node of btrfs: as one block that the cipher
	// authenticates, it is read as a whole or not at all.
	nodeSize = BlockSize
	// A node begins with the SHA-256 of what follows the 32 bytes.
	checksumSize = 32
)

// format writes the template to the mapped device, with an identity of its own.
func (v Volume) format() error {
	f, err := v.device(os.O_WRONLY | os.O_SYNC | unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	var id [len(templateID)]byte
	rand.Read(id[:]) // never fails
	block := NewBlock()
	for offset, content := range blocks(template) {
		copy(block, content)
		identify(block, id)
		if _, err := f.WriteAt(block, offset); err != nil {
			return fmt.Errorf("cannot write the file system: %w", err)
		}
	}
	return nil
}

// identify gives a node another identity.
func identify(node []byte, id [len(templateID)]byte) {
	content := bytes.ReplaceAll(node[checksumSize:], []byte(templateID), id[:])
	sum := sha256.Sum256(content)
	copy(node, append(sum[:], content...))
}

// blocks yields each block that is not all zero, after its offset. The slice is
// valid until the next one.
func blocks(t []byte) func(yield func(int64, []byte) bool) {
	return func(yield func(int64, []byte) bool) {
		var block [nodeSize]byte
		current := int64(-1)
		for len(t) > 0 {
			offset, length := int64(binary.LittleEndian.Uint32(t)), binary.LittleEndian.Uint32(t[4:])
			part := t[8:][:length]
			t = t[8+length:]
			if start := offset / nodeSize * nodeSize; start != current {
				if current >= 0 && !yield(current, block[:]) {
					return
				}
				current, block = start, [nodeSize]byte{}
			}
			copy(block[offset-current:], part)
		}
		if current >= 0 {
			yield(current, block[:])
		}
	}
}
