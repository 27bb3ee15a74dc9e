package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/oracle"
)

// pattern returns blocks of data that all differ.
func pattern(blocks int) []byte {
	data := make([]byte, blocks*BlockSize)
	for i := range blocks {
		seed := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		for off := 0; off < BlockSize; off += len(seed) {
			copy(data[i*BlockSize+off:], seed[:])
		}
	}
	return data
}

func build(t *testing.T, data, salt []byte) *Tree {
	t.Helper()
	b, err := NewBuilder(uint64(len(data)/BlockSize), salt)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.Write(data); n != len(data) || err != nil {
		t.Fatalf("Write = %d, %v; want %d", n, err, len(data))
	}
	tree, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func hashArea(t *testing.T, tree *Tree, uuid [16]byte) []byte {
	t.Helper()
	var area bytes.Buffer
	if err := tree.WriteHashArea(&area, uuid); err != nil {
		t.Fatal(err)
	}
	return area.Bytes()
}

func TestSingleBlockRootIsItsDigest(t *testing.T) {
	data, salt := pattern(1), []byte("salt")
	tree := build(t, data, salt)
	want := sha256.Sum256(append(bytes.Clone(salt), data...))
	if got := tree.Params().RootHash; got != want {
		t.Errorf("root hash = %x; want %x", got, want)
	}
	if got := len(hashArea(t, tree, [16]byte{})); got != BlockSize {
		t.Errorf("hash area of one block = %d bytes; want the superblock only", got)
	}
}

func TestWriteInPiecesIsTheSame(t *testing.T) {
	data := pattern(300)
	want := build(t, data, nil)
	b, err := NewBuilder(300, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := 0, 1; i < 300; i, step = i+step, step*2 {
		if _, err := b.Write(data[i*BlockSize : min(i+step, 300)*BlockSize]); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(hashArea(t, got, [16]byte{1}), hashArea(t, want, [16]byte{1})) || got.Params().String() != want.Params().String() {
		t.Error("a tree built in pieces differs from one built at once")
	}
}

func TestBuilderRefuses(t *testing.T) {
	for _, n := range []uint64{0, MaxDataBlocks + 1} {
		if _, err := NewBuilder(n, nil); err == nil {
			t.Errorf("NewBuilder(%d) succeeded; want an error", n)
		}
	}
	if _, err := NewBuilder(1, make([]byte, MaxSaltSize+1)); err == nil {
		t.Error("NewBuilder(salt too long) succeeded; want an error")
	}
	b, err := NewBuilder(2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write(make([]byte, BlockSize-1)); err == nil {
		t.Error("Write(part of a block) succeeded; want an error")
	}
	if _, err := b.Write(make([]byte, 3*BlockSize)); !errors.Is(err, ErrDataLength) {
		t.Errorf("Write(three blocks of two) = %v; want ErrDataLength", err)
	}
	if _, err := b.Write(make([]byte, BlockSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(); !errors.Is(err, ErrDataLength) {
		t.Errorf("Finish after one block of two = %v; want ErrDataLength", err)
	}
}

func TestParamsDoNotAliasTheSalt(t *testing.T) {
	salt := []byte{1, 2, 3}
	tree := build(t, pattern(1), salt)
	salt[0] = 9
	tree.Params().Salt[1] = 9
	if got := tree.Params().Salt; !bytes.Equal(got, []byte{1, 2, 3}) {
		t.Errorf("salt = %v after the caller changed its copies; want 1 2 3", got)
	}
}

type failingWriter struct{ left int }

var errFull = errors.New("full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteHashAreaReportsTheWriter(t *testing.T) {
	tree := build(t, pattern(2), nil)
	for n := range 2 {
		if err := tree.WriteHashArea(&failingWriter{n}, [16]byte{}); !errors.Is(err, errFull) {
			t.Errorf("WriteHashArea with a writer that takes %d writes = %v; want its error", n, err)
		}
	}
}

// TestAgainstVeritysetup compares every byte of the hash area with the one
// that veritysetup makes, and lets it verify and dump ours.
func TestAgainstVeritysetup(t *testing.T) {
	veritysetup := oracle.Tool(t, "veritysetup")
	salts := [][]byte{nil, {0xab}, bytes.Repeat([]byte{7, 8}, 16), bytes.Repeat([]byte{9}, MaxSaltSize)}
	for i, blocks := range []int{1, 2, 127, 128, 129, 255, 16384, 16385} {
		salt := salts[i%len(salts)]
		t.Run(fmt.Sprintf("%d blocks, salt of %d", blocks, len(salt)), func(t *testing.T) {
			dir := t.TempDir()
			data := pattern(blocks)
			dataFile, ours, theirs := filepath.Join(dir, "data"), filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
			write(t, dataFile, data)
			tree := build(t, data, salt)
			p := tree.Params()
			area := hashArea(t, tree, [16]byte{0x12, 0x34, 15: 0xff})
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
				fmt.Sprintf("--data-blocks=%d", p.DataBlocks), fmt.Sprintf("--hash-offset=%d", p.HashStart()*BlockSize))
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
