package tree

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"cocoroot/unlock/verity"
)

func superblockSeeds() [][]byte {
	p := verity.Params{DataBlocks: 1025, Salt: bytes.Repeat([]byte{7}, 32)}
	changed := Superblock(p, [16]byte{1})
	changed[64] = 1 // another block size
	return [][]byte{Superblock(p, [16]byte{1, 2}), Superblock(verity.Params{DataBlocks: 1}, [16]byte{}), changed, make([]byte, verity.BlockSize)}
}

func TestParseSuperblock(t *testing.T) {
	p := verity.Params{DataBlocks: 1025, Salt: []byte{1, 2, 3}}
	id := [16]byte{9, 8, 7}
	good := Superblock(p, id)
	if got, uuid, err := ParseSuperblock(good); err != nil || uuid != id || !reflect.DeepEqual(got, p) {
		t.Fatalf("ParseSuperblock = %+v, %x, %v; want what was written", got, uuid, err)
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x80
		got, uuid, err := ParseSuperblock(b)
		if err == nil && got.DataBlocks == p.DataBlocks && bytes.Equal(got.Salt, p.Salt) && uuid == id {
			t.Fatalf("byte %d changed: ParseSuperblock sees no difference", i)
		}
	}
	if _, _, err := ParseSuperblock(good[:512]); !errors.Is(err, errSuperblock) {
		t.Errorf("a sector of it: %v; want errSuperblock", err)
	}
}

func FuzzParseSuperblock(f *testing.F) {
	for _, s := range superblockSeeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, uuid, err := ParseSuperblock(b)
		if err == nil && !bytes.Equal(Superblock(p, uuid), b) {
			t.Errorf("ParseSuperblock accepted what Superblock does not write: %+v", p)
		}
		if err != nil && !errors.Is(err, errSuperblock) {
			t.Errorf("error = %v; want errSuperblock", err)
		}
	})
}

// TestFuzzParseSuperblockSeeds checks that the seeds reach both ends.
func TestFuzzParseSuperblockSeeds(t *testing.T) {
	good := 0
	for _, s := range superblockSeeds() {
		if _, _, err := ParseSuperblock(s); err == nil {
			good++
		}
	}
	if good != 2 {
		t.Errorf("%d seeds are superblocks; want 2", good)
	}
}
