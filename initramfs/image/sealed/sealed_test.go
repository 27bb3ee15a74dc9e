package sealed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/verity/tree"
)

var passphrase = []byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")

// options returns the same options, and the same random bytes, every time.
func options() Options {
	return Options{Passphrase: passphrase, KDF: format.PBKDF2(format.GeneratedKeyIterations), Random: rand.NewChaCha8([32]byte{1})}
}

// source returns n bytes in which no block is like another.
func source(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{2}).Read(b)
	return b
}

// memory is an io.WriterAt that fails from a given offset on.
type memory struct {
	mu   sync.Mutex
	data []byte
	full int64 // 0 means never
}

var errFull = errors.New("no space left")

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := off + int64(len(p))
	if m.full > 0 && end > m.full {
		return 0, errFull
	}
	if int64(len(m.data)) < end {
		m.data = append(m.data, make([]byte, end-int64(len(m.data)))...)
	}
	return copy(m.data[off:], p), nil
}

func seal(t testing.TB, src []byte, o Options) (*memory, Result) {
	t.Helper()
	dst := &memory{}
	r, err := Write(context.Background(), dst, bytes.NewReader(src), int64(len(src)), o)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(dst.data)) != r.Size {
		t.Fatalf("Write wrote %d bytes and reports %d", len(dst.data), r.Size)
	}
	return dst, r
}

func TestWriteIsReproducible(t *testing.T) {
	// The digest was taken from an image that cryptsetup 2.6.1 decrypted and
	// veritysetup verified. A change of it changes the images that people get
	// from the same inputs.
	const want = "d67aa766d062097fd21f138951e0f2b10d24670bb6457eb8bf809c6c44cdfd78"
	src := source(3*blockSize + 17)
	dst, r := seal(t, src, options())
	sum := sha256.Sum256(dst.data)
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("SHA-256 of the image = %s; want %s", got, want)
	}
	o := options()
	o.Random = nil
	other, r2 := seal(t, src, o)
	if bytes.Equal(dst.data[dataOffset:dataOffset+blockSize], other.data[dataOffset:dataOffset+blockSize]) || r.Params.RootHash == r2.Params.RootHash || r.UUID == r2.UUID || uuid.MustParse(r.UUID).Version() != 4 {
		t.Errorf("crypto/rand made the same image as a fixed source, or %s is not a UUID of version 4", r.UUID)
	}
}

func TestResult(t *testing.T) {
	dst, r := seal(t, source(5*blockSize+1), options())
	if r.Params.DataBlocks != 256+6 || len(r.Params.Salt) != 32 || uint64(r.Size) != r.Params.DeviceSize() {
		t.Errorf("Params = %+v of %d bytes", r.Params, r.Size)
	}
	if n, err := ImageSize(5*blockSize + 1); n != r.Size || err != nil {
		t.Errorf("ImageSize = %d, %v; want %d", n, err, r.Size)
	}
	info, err := luks2.Check(dst.data[:16384], r.Params.DataSize(), luks2.Limits{})
	if err != nil || info.UUID != r.UUID || info.Offset != 1<<20 || info.Size != 6*blockSize {
		t.Errorf("Check of the image's header = %v, %v", info, err)
	}
}

func TestWriteHidesTheSource(t *testing.T) {
	src := bytes.Repeat([]byte("plaintext in sixteens........."), 1000)
	dst, _ := seal(t, src, options())
	for name, secret := range map[string][]byte{"source": []byte("plaintext in"), "passphrase": passphrase} {
		if bytes.Contains(dst.data, secret) {
			t.Errorf("the image holds the %s", name)
		}
	}
	seen := map[[16]byte]bool{}
	for b := dst.data[dataOffset : dataOffset+len(src)]; len(b) >= 16; b = b[16:] {
		if seen[[16]byte(b)] {
			t.Fatal("the ciphertext repeats itself")
		}
		seen[[16]byte(b)] = true
	}
}

func TestWriteRefusesSizes(t *testing.T) {
	src := source(2*blockSize + 5)
	for _, size := range []int64{0, -1, 1 << 62, int64(len(src)) + 1, 3 * blockSize, tree.LeafSize + 1} {
		if _, err := Write(context.Background(), &memory{}, bytes.NewReader(src), size, options()); !errors.Is(err, errSourceSize) {
			t.Errorf("Write(%d bytes, size %d) = %v; want errSourceSize", len(src), size, err)
		}
	}
	for _, size := range []int64{0, -1, 1 << 44} {
		if n, err := ImageSize(size); !errors.Is(err, errSourceSize) {
			t.Errorf("ImageSize(%d) = %d, %v; want errSourceSize", size, n, err)
		}
	}
}

func TestWriteReportsReaderAndWriter(t *testing.T) {
	src := source(3 * blockSize)
	errBroken := errors.New("broken")
	for _, n := range []int64{0, blockSize, int64(len(src)) - 1} {
		if _, err := Write(context.Background(), &memory{}, failing{bytes.NewReader(src), n, errBroken}, int64(len(src)), options()); !errors.Is(err, errBroken) {
			t.Errorf("Write with a source that breaks after %d bytes = %v; want its error", n, err)
		}
	}
	size, err := ImageSize(int64(len(src)))
	if err != nil {
		t.Fatal(err)
	}
	for _, full := range []int64{1, dataOffset, dataOffset + int64(len(src)), size - 1} {
		if _, err := Write(context.Background(), &memory{full: full}, bytes.NewReader(src), int64(len(src)), options()); !errors.Is(err, errFull) {
			t.Errorf("Write into %d bytes = %v; want the writer's error", full, err)
		}
	}
	for _, left := range []int64{0, 63, 64, 64 + 16, 64 + 16 + 192 + 3999*64 + 31, 64 + 16 + 192 + 3999*64 + 32 + 15} {
		o := options()
		o.Random = io.LimitReader(o.Random, left)
		if _, err := Write(context.Background(), &memory{}, bytes.NewReader(src), int64(len(src)), o); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Write with %d random bytes = %v; want the source's error", left, err)
		}
	}
	o := options()
	o.Random = io.LimitReader(o.Random, 64+16+192+3999*64+32+16)
	seal(t, src, o)
	o = options()
	o.KDF = luks2.KDF{}
	if _, err := Write(context.Background(), &memory{}, bytes.NewReader(src), int64(len(src)), o); !errors.Is(err, format.ErrKDF) {
		t.Errorf("Write without a KDF = %v; want ErrKDF", err)
	}
}

// failing is a source that breaks after some bytes.
type failing struct {
	io.ReaderAt
	from int64
	err  error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestProgress(t *testing.T) {
	o := options()
	var calls []int64
	var total int64
	o.Progress = func(done, of int64) { calls, total = append(calls, done), of }
	_, r := seal(t, source(tree.LeafSize+1), o)
	if len(calls) != 5 || !slices.IsSorted(calls) || calls[4] != r.Size || total != r.Size {
		t.Errorf("progress = %v of %d; want it for each of 4 leaves, and the end", calls, total)
	}
}

// endless is a source that never ends and never waits, and which counts the
// reads that begin after it was stopped.
type endless struct {
	stop        func()
	stopAt      int64
	begun, late atomic.Int64
	stopped     atomic.Bool
}

func (e *endless) ReadAt(p []byte, _ int64) (int, error) {
	if e.stopped.Load() {
		e.late.Add(1)
	}
	if e.begun.Add(1) == e.stopAt {
		e.stop()
		e.stopped.Store(true)
	}
	return len(p), nil
}

// TestWriteStops: each worker that has begun a read when Write is stopped ends, and
// begins no other.
func TestWriteStops(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	var asked time.Time
	src := &endless{stopAt: 9, stop: func() { asked = time.Now(); cancel(cause) }}
	_, err := Write(ctx, discard{}, src, 1<<40, options())
	if !errors.Is(err, cause) {
		t.Errorf("Write = %v; want the cause of the cancellation", err)
	}
	if took := time.Since(asked); took > time.Second {
		t.Errorf("Write went on for %v after it was stopped", took)
	}
	if late, most := src.late.Load(), int64(runtime.GOMAXPROCS(0)); late > most {
		t.Errorf("%d reads began after Write was stopped; want at most the %d other workers'", late, most)
	}
}

// TestWriteToFile: what goes to a file, some of it on its way to the disk
// already, is what goes to memory.
func TestWriteToFile(t *testing.T) {
	src := source(3*window + 1)
	want, _ := seal(t, src, options())
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(context.Background(), f, bytes.NewReader(src), int64(len(src)), options()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.data) {
		t.Error("the image in the file is not the one in memory")
	}
}

// TestFirstErrorEndsAll: whatever fails in the middle, Write returns that
// error and none of its consequences.
func TestFirstErrorEndsAll(t *testing.T) {
	const leaves = 20
	src := source(leaves * tree.LeafSize)
	errBroken := errors.New("broken")
	for k := int64(0); k < leaves; k += 7 {
		broken := failing{bytes.NewReader(src), k*tree.LeafSize + k, errBroken}
		if _, err := Write(context.Background(), &memory{}, broken, int64(len(src)), options()); !errors.Is(err, errBroken) {
			t.Errorf("Write with a source that breaks in leaf %d = %v; want its error", k, err)
		}
		full := &memory{full: dataOffset + k*tree.LeafSize + 1}
		if _, err := Write(context.Background(), full, bytes.NewReader(src), int64(len(src)), options()); !errors.Is(err, errFull) {
			t.Errorf("Write to a target that is full in leaf %d = %v; want errFull", k, err)
		}
	}
}

// TestWriteGivesTheKeyBack: no locked memory is left, whatever the end was.
// That it is zeroed when it is given back is shown in secmem.
func TestWriteGivesTheKeyBack(t *testing.T) {
	before := lockedMemory(t)
	src := source(blockSize)
	seal(t, src, options())
	for _, size := range []int64{blockSize + 1, 2 * blockSize} {
		if _, err := Write(context.Background(), &memory{}, bytes.NewReader(src), size, options()); err == nil {
			t.Errorf("Write(%d bytes, size %d) succeeded; want an error", len(src), size)
		}
	}
	o := options()
	o.Random = io.LimitReader(o.Random, 100)
	if _, err := Write(context.Background(), &memory{}, bytes.NewReader(src), blockSize, o); err == nil {
		t.Error("Write with 100 random bytes succeeded; want an error")
	}
	if after := lockedMemory(t); after != before {
		t.Errorf("locked memory %s, and %s before", after, before)
	}
}

// lockedMemory returns what the kernel says of this process's locked memory.
func lockedMemory(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmLck:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatal("no VmLck in /proc/self/status")
	return ""
}
