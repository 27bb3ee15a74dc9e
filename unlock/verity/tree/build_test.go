package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/verity"
)

// pattern returns blocks of data that all differ.
func pattern(blocks int) []byte {
	data := make([]byte, blocks*verity.BlockSize)
	for i := range blocks {
		seed := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		for off := 0; off < verity.BlockSize; off += len(seed) {
			copy(data[i*verity.BlockSize+off:], seed[:])
		}
	}
	return data
}

// memory is an io.WriterAt that fails after so many writes.
type memory struct {
	data []byte
	left int
}

var errFull = errors.New("full")

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.left--; m.left < 0 {
		return 0, errFull
	}
	if end := int(off) + len(p); end > len(m.data) {
		m.data = append(m.data, make([]byte, end-len(m.data))...)
	}
	return copy(m.data[off:], p), nil
}

// build returns the parameters and the hash area of data, of which leaves are
// added in the order of the numbers, or as they come.
func build(t *testing.T, data, salt []byte, order ...uint64) (verity.Params, []byte) {
	t.Helper()
	dst := &memory{left: math.MaxInt}
	params, err := buildIn(dst, data, salt, order...)
	if err != nil {
		t.Fatal(err)
	}
	return params, dst.data
}

func buildIn(dst io.WriterAt, data, salt []byte, order ...uint64) (verity.Params, error) {
	b, err := NewBuilder(dst, uint64(len(data)/verity.BlockSize), salt)
	if err != nil {
		return verity.Params{}, err
	}
	if order == nil {
		for n := range (len(data) + LeafSize - 1) / LeafSize {
			order = append(order, uint64(n))
		}
	}
	for _, n := range order {
		if err := b.Add(n, bytes.Clone(data[n*LeafSize:min((n+1)*LeafSize, uint64(len(data)))])); err != nil {
			return verity.Params{}, err
		}
	}
	return b.Finish([16]byte{0x12, 0x34, 15: 0xff})
}

func TestSingleBlockRootIsItsDigest(t *testing.T) {
	data, salt := pattern(1), []byte("salt")
	p, area := build(t, data, salt)
	want := sha256.Sum256(append(bytes.Clone(salt), data...))
	if got := p.RootHash; got != want {
		t.Errorf("root hash = %x; want %x", got, want)
	}
	if got := len(area); got != verity.BlockSize {
		t.Errorf("hash area of one block = %d bytes; want the superblock only", got)
	}
}

func TestAnyOrderIsTheSame(t *testing.T) {
	data := pattern(300)
	want, wantArea := build(t, data, nil)
	got, gotArea := build(t, data, nil, 2, 0, 1)
	if !bytes.Equal(gotArea, wantArea) || got.String() != want.String() {
		t.Error("a tree built in another order differs")
	}
}

func TestBuilderRefuses(t *testing.T) {
	for _, n := range []uint64{0, verity.MaxDataBlocks + 1} {
		if _, err := NewBuilder(&memory{}, n, nil); err == nil {
			t.Errorf("NewBuilder(%d) succeeded; want an error", n)
		}
	}
	if _, err := NewBuilder(&memory{}, 1, make([]byte, verity.MaxSaltSize+1)); err == nil {
		t.Error("NewBuilder(salt too long) succeeded; want an error")
	}
}

func TestParamsDoNotAliasTheSalt(t *testing.T) {
	salt := []byte{1, 2, 3}
	b, err := NewBuilder(&memory{left: 9}, 1, salt)
	if err != nil {
		t.Fatal(err)
	}
	salt[0] = 9
	if err := b.Add(0, pattern(1)); err != nil {
		t.Fatal(err)
	}
	p, err := b.Finish([16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Salt, []byte{1, 2, 3}) {
		t.Errorf("salt = %v after the caller changed its copy; want 1 2 3", p.Salt)
	}
}

func TestBuilderReportsTheWriter(t *testing.T) {
	const writes = 2 + 1 + 1 // leaves, top, superblock
	for n := range writes + 1 {
		_, err := buildIn(&memory{left: n}, pattern(129), nil)
		if n < writes && !errors.Is(err, errFull) || n == writes && err != nil {
			t.Errorf("with a writer that takes %d of %d writes: %v", n, writes, err)
		}
	}
}

// TestAgainstVeritysetup compares every byte of the hash area with the one
// that veritysetup makes, and lets it verify and dump ours.
func TestAgainstVeritysetup(t *testing.T) {
	veritysetup := oracle.Tool(t, "veritysetup")
	salts := [][]byte{nil, {0xab}, bytes.Repeat([]byte{7, 8}, 16), bytes.Repeat([]byte{9}, verity.MaxSaltSize)}
	for i, blocks := range []int{1, 2, 127, 128, 129, 255, 16384, 16385} {
		salt := salts[i%len(salts)]
		t.Run(fmt.Sprintf("%d blocks, salt of %d", blocks, len(salt)), func(t *testing.T) {
			dir := t.TempDir()
			data := pattern(blocks)
			dataFile, ours, theirs := filepath.Join(dir, "data"), filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
			write(t, dataFile, data)
			p, area := build(t, data, salt)
			if got, want := uint64(len(area)), p.DeviceSize()-p.DataSize(); got != want {
				t.Errorf("hash area = %d bytes; want %d", got, want)
			}
			write(t, ours, area)

			saltArg := "--salt=" + p.SaltText()
			oracle.Run(t, veritysetup, "format", saltArg, "--uuid=12340000-0000-0000-0000-0000000000ff", dataFile, theirs)
			if want := read(t, theirs); !bytes.Equal(area, want) {
				t.Errorf("hash area differs from veritysetup's (%d and %d bytes)", len(area), len(want))
			}
			rootHash := hex.EncodeToString(p.RootHash[:])
			oracle.Run(t, veritysetup, "verify", dataFile, ours, rootHash)
			dump := oracle.Run(t, veritysetup, "dump", ours)
			for _, want := range []string{fmt.Sprintf("Data blocks:     \t%d\n", blocks), "12340000-0000-0000-0000-0000000000ff", "Hash type:       \t1\n"} {
				if !strings.Contains(dump, want) {
					t.Errorf("veritysetup dump =\n%s\nwant %q in it", dump, want)
				}
			}
			write(t, ours, append(bytes.Clone(data), area...))
			oracle.Run(t, veritysetup, "verify", ours, ours, rootHash, "--no-superblock", saltArg,
				"--hash=sha256", "--format=1", "--data-block-size=4096", "--hash-block-size=4096",
				fmt.Sprintf("--data-blocks=%d", p.DataBlocks), fmt.Sprintf("--hash-offset=%d", p.HashStart()*verity.BlockSize))
		})
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
