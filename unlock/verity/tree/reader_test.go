package tree

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"testing"

	"cocoroot/unlock/verity"
)

func TestReader(t *testing.T) {
	for _, blocks := range []int{1, 2, 128, 129, 300} {
		p, image := whole(t, blocks, []byte{1, 2, 3})
		data := image[:p.DataSize()]
		if err := errors.Join(readSame(p, image, data, 0, len(data)), readSame(p, image, data, len(data)/3, len(data)/2)); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
		if n, err := NewReader(p, bytes.NewReader(image)).ReadAt(make([]byte, 10), int64(len(data))-3); n != 3 || err != io.EOF {
			t.Errorf("%d blocks: at the end %d, %v; want 3, EOF", blocks, n, err)
		}
		random := rand.New(rand.NewSource(1))
		for range 20 {
			bad := bytes.Clone(image)
			at := random.Intn(len(data))
			bad[at] ^= 1 << random.Intn(8)
			r := NewReader(p, bytes.NewReader(bad))
			if _, err := r.ReadAt(make([]byte, 1), int64(at)); !isBad(err) {
				t.Errorf("%d blocks: byte %d flipped: %v; want a bad block", blocks, at, err)
			}
		}
		if blocks > 1 {
			bad := bytes.Clone(image)
			bad[p.HashStart()*verity.BlockSize+40] ^= 1 // the top of the tree
			if _, err := NewReader(p, bytes.NewReader(bad)).ReadAt(make([]byte, 1), 0); !isBad(err) {
				t.Errorf("%d blocks: tree flipped: %v; want a bad block", blocks, err)
			}
		}
		if _, err := NewReader(p, bytes.NewReader(image[:verity.BlockSize-1])).ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrShort) {
			t.Errorf("%d blocks: cut: %v; want ErrShort", blocks, err)
		}
	}
}

// readSame reads a part and compares it.
func readSame(p verity.Params, image, data []byte, off, n int) error {
	got := make([]byte, n)
	if m, err := NewReader(p, bytes.NewReader(image)).ReadAt(got, int64(off)); m != n || err != nil {
		return err
	}
	if !bytes.Equal(got, data[off:off+n]) {
		return errors.New("other bytes")
	}
	return nil
}

func isBad(err error) bool {
	_, ok := errors.AsType[Bad](err)
	return ok
}
