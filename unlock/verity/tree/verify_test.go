package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/verity"
)

// whole returns data with what belongs after it.
func whole(t *testing.T, blocks int, salt []byte) (verity.Params, []byte) {
	t.Helper()
	data := pattern(blocks)
	p, area := build(t, data, salt)
	return p, append(data, area...)
}

func TestVerifyNamesTheBlock(t *testing.T) {
	const blocks = 16385 // 129 leaves, 2 above, the top
	p, image := whole(t, blocks, []byte("salt"))
	top := int64(p.HashStart())
	for name, c := range map[string]struct {
		block int64
		byte  int
		want  Bad
	}{
		"first data":      {0, 0, Bad{0, 0, 0, 0, 1}},
		"middle data":     {8000, 4095, Bad{8000 * verity.BlockSize, 0, 8000, 8000, 1}},
		"last data":       {16384, 7, Bad{16384 * verity.BlockSize, 0, 16384, 16384, 1}},
		"top":             {top, 0, Bad{top * verity.BlockSize, 3, 0, 0, blocks}},
		"padding of top":  {top, 4095, Bad{top * verity.BlockSize, 3, 0, 0, blocks}},
		"second level":    {top + 1, 5, Bad{(top + 1) * verity.BlockSize, 2, 0, 0, 16384}},
		"padded second":   {top + 2, 4095, Bad{(top + 2) * verity.BlockSize, 2, 1, 16384, 1}},
		"first leaf":      {top + 3, 0, Bad{(top + 3) * verity.BlockSize, 1, 0, 0, 128}},
		"last leaf":       {top + 3 + 128, 0, Bad{(top + 131) * verity.BlockSize, 1, 128, 16384, 1}},
		"last leaf's pad": {top + 3 + 128, 32, Bad{(top + 131) * verity.BlockSize, 1, 128, 16384, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			at := c.block*verity.BlockSize + int64(c.byte)
			image[at] ^= 1
			defer func() { image[at] ^= 1 }()
			v, err := Verify(t.Context(), p, bytes.NewReader(image), nil)
			if err != nil || v.First == nil || *v.First != c.want || v.Bad != 1 {
				t.Errorf("Verify = %+v (first %+v), %v; want only %+v", v, v.First, err, c.want)
			}
		})
	}
	image[blocks*verity.BlockSize] ^= 1 // the superblock, which the hash does not cover
	if v, err := Verify(t.Context(), p, bytes.NewReader(image), nil); err != nil || v != (Verdict{}) {
		t.Errorf("Verify of the whole image = %+v, %v; want nothing bad", v, err)
	}
	image[5] ^= 1
	image[700*verity.BlockSize] ^= 1
	if v, err := Verify(t.Context(), p, bytes.NewReader(image), nil); err != nil || v.Bad != 2 || v.First.Block != 0 {
		t.Errorf("Verify with two bad blocks = %+v, %v", v, err)
	}
}

// A block of the tree that was good for one worker and is bad for another is
// in the verdict: what lies below the second one's leaf was not checked.
func TestVerifyWhileItChanges(t *testing.T) {
	v := &verifier{params: verity.Params{DataBlocks: 300}}
	v.bad(NewReader(v.params, nil).bad(2, 0), 128)
	if v.verdict.First == nil {
		t.Errorf("verdict = %+v; want a first bad block", v.verdict)
	}
}

// failing fails to read after a byte.
type failing struct {
	io.ReaderAt
	from int64
}

var errRead = errors.New("bad sector")

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.from {
		return 0, errRead
	}
	return f.ReaderAt.ReadAt(b, off)
}

func TestVerifyErrorsAreNotVerdicts(t *testing.T) {
	p, image := whole(t, 300, nil)
	for _, n := range []int{0, 1, verity.BlockSize, 300 * verity.BlockSize, len(image) - verity.BlockSize, len(image) - 1} {
		if v, err := Verify(t.Context(), p, bytes.NewReader(image[:n]), nil); !errors.Is(err, ErrShort) || v != (Verdict{}) {
			t.Errorf("Verify of %d bytes = %+v, %v; want ErrShort", n, v, err)
		}
	}
	for _, n := range []int{0, 100 * verity.BlockSize, len(image) - 1} {
		if v, err := Verify(t.Context(), p, failing{bytes.NewReader(image), int64(n)}, nil); !errors.Is(err, errRead) || v != (Verdict{}) {
			t.Errorf("Verify with a read error from %d = %+v, %v; want the error", n, v, err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Verify(ctx, p, bytes.NewReader(image), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify when stopped = %v; want context.Canceled", err)
	}
}

// TestVerifyAgainstVeritysetup flips bytes at random and asks both.
func TestVerifyAgainstVeritysetup(t *testing.T) {
	veritysetup := oracle.Tool(t, "veritysetup")
	rng := rand.New(rand.NewPCG(5, 4))
	for _, blocks := range []int{1, 2, 128, 129, 300} {
		p, image := whole(t, blocks, []byte{1, 2, 3})
		file := filepath.Join(t.TempDir(), "image")
		for i := range 12 {
			at := rng.IntN(len(image))
			if i == 0 {
				at = -1 // unchanged
			} else if at/verity.BlockSize == blocks {
				continue // veritysetup would read another superblock
			}
			changed := bytes.Clone(image)
			if at >= 0 {
				changed[at] ^= 1 << rng.IntN(8)
			}
			write(t, file, changed)
			theirs := exec.Command(veritysetup, "verify", file, file, fmt.Sprintf("%x", p.RootHash),
				fmt.Sprintf("--hash-offset=%d", p.DataSize())).Run()
			v, err := Verify(t.Context(), p, bytes.NewReader(changed), nil)
			if err != nil || (v.Bad == 0) != (theirs == nil) || (v.Bad == 0) != (at < 0) {
				t.Errorf("%d blocks, byte %d changed: %+v, %v; veritysetup says %v", blocks, at, v, err, theirs)
			}
		}
	}
}
