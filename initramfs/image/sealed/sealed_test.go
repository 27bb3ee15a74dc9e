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
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
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
	data []byte
	full int64 // 0 means never
}

var errFull = errors.New("no space left")

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
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
	if bytes.Equal(dst.data[dataOffset:dataOffset+blockSize], other.data[dataOffset:dataOffset+blockSize]) || r.Params.RootHash == r2.Params.RootHash || r.UUID == r2.UUID {
		t.Error("crypto/rand made the same image as a fixed source")
	}
}

func TestResult(t *testing.T) {
	o := options()
	o.UUID = uuid.UUID{0xab, 15: 1}
	dst, r := seal(t, source(5*blockSize+1), o)
	if r.UUID != "ab000000-0000-0000-0000-000000000001" || r.DataOffset != 1<<20 || r.DataSize != 6*blockSize {
		t.Errorf("Write = %+v", r)
	}
	if r.Params.DataBlocks != 256+6 || len(r.Params.Salt) != 32 || uint64(r.Size) != r.Params.DeviceSize() {
		t.Errorf("Params = %+v of %d bytes", r.Params, r.Size)
	}
	if n, err := ImageSize(5*blockSize + 1); n != r.Size || err != nil {
		t.Errorf("ImageSize = %d, %v; want %d", n, err, r.Size)
	}
	info, err := luks2.Check(dst.data[:16384], r.Params.DataSize(), luks2.Limits{})
	if err != nil || info.UUID != r.UUID || info.Size != uint64(r.DataSize) {
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
	for _, size := range []int64{0, -1, 1 << 62, int64(len(src)) - 1, int64(len(src)) + 1, blockSize, 3 * blockSize, chunkSize + 1} {
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
	for _, n := range []int{0, blockSize, len(src)} { // the last: only while looking for the end
		r := io.MultiReader(bytes.NewReader(src[:n]), &failing{errBroken})
		if _, err := Write(context.Background(), &memory{}, r, int64(len(src)), options()); !errors.Is(err, errBroken) {
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

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestWriteStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("enough")
	src := source(2*chunkSize + 1)
	o := options()
	var last int64
	o.Progress = func(done, total int64) {
		last = done
		if done > dataOffset {
			cancel(cause)
		}
	}
	if _, err := Write(ctx, &memory{}, bytes.NewReader(src), int64(len(src)), o); !errors.Is(err, cause) {
		t.Errorf("Write = %v; want the cause of the cancellation", err)
	}
	if last != dataOffset+chunkSize {
		t.Errorf("Write went on to byte %d after it was stopped at %d", last, dataOffset+chunkSize)
	}
}

func TestProgress(t *testing.T) {
	o := options()
	var calls []int64
	var total int64
	o.Progress = func(done, of int64) { calls, total = append(calls, done), of }
	_, r := seal(t, source(chunkSize+1), o)
	want := []int64{dataOffset, dataOffset + chunkSize, dataOffset + chunkSize + blockSize, r.Size}
	if len(calls) != len(want) || total != r.Size {
		t.Fatalf("progress = %v of %d; want %v of %d", calls, total, want, r.Size)
	}
	for i := range want {
		if calls[i] != want[i] {
			t.Errorf("progress = %v; want %v", calls, want)
		}
	}
}

// endless is a source that never ends and never waits.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestWriteStopsWithinASecond(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var asked time.Time
	o := options()
	time.AfterFunc(50*time.Millisecond, func() { asked = time.Now(); cancel() })
	_, err := Write(ctx, discard{}, endless{}, 1<<40, o)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Write = %v; want context.Canceled", err)
	}
	if took := time.Since(asked); took > time.Second {
		t.Errorf("Write went on for %v after it was stopped", took)
	}
}

// stopping is an endless source that calls stop in one Read and counts the
// ones after it.
type stopping struct {
	left, late int
	stop       func()
}

func (s *stopping) Read(p []byte) (int, error) {
	if s.left--; s.left == 0 {
		time.Sleep(50 * time.Millisecond) // the other workers come to wait for their turn to read
		s.stop()
	} else if s.left < 0 {
		s.late++
	}
	return len(p), nil
}

func TestStoppedWriteReadsNoMore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	src := &stopping{left: 9, stop: cancel}
	if _, err := Write(ctx, discard{}, src, 1<<40, options()); !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v; want context.Canceled", err)
	}
	if src.late > 0 {
		t.Errorf("%d reads began after Write was stopped", src.late)
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

// front is an io.WriterAt that keeps nothing, and fails where what is written
// from its start on in order becomes longer than full.
type front struct{ end, full int64 }

func (f *front) WriteAt(p []byte, off int64) (int, error) {
	if off == f.end {
		if off+int64(len(p)) > f.full {
			return 0, errFull
		}
		f.end += int64(len(p))
	}
	return len(p), nil
}

// TestFirstErrorEndsAll: whatever fails in the middle, Write returns that
// error and none of its consequences, and no worker writes after it.
func TestFirstErrorEndsAll(t *testing.T) {
	const chunks = 40
	src := source(chunks * chunkSize)
	errBroken := errors.New("broken")
	for k := int64(0); k < chunks; k += 7 {
		dst := &front{full: 1 << 40}
		r := io.MultiReader(bytes.NewReader(src[:k*chunkSize+k]), &failing{errBroken})
		if _, err := Write(context.Background(), dst, r, int64(len(src)), options()); !errors.Is(err, errBroken) {
			t.Errorf("Write with a source that breaks in chunk %d = %v; want its error", k, err)
		}
		if dst.end > dataOffset+k*chunkSize {
			t.Errorf("source that breaks in chunk %d: %d bytes were written", k, dst.end)
		}
		dst = &front{full: dataOffset + k*chunkSize + 1}
		if _, err := Write(context.Background(), dst, bytes.NewReader(src), int64(len(src)), options()); !errors.Is(err, errFull) {
			t.Errorf("Write to a target that is full in chunk %d = %v; want errFull", k, err)
		}
		if dst.end != dataOffset+k*chunkSize {
			t.Errorf("target that is full in chunk %d: %d bytes were written", k, dst.end)
		}
	}
}

// TestWriteGivesTheKeyBack: no locked memory is left, whatever the end was.
// That it is zeroed when it is given back is shown in secmem.
func TestWriteGivesTheKeyBack(t *testing.T) {
	before := lockedMemory(t)
	src := source(blockSize)
	seal(t, src, options())
	for _, size := range []int64{blockSize + 1, blockSize - 1} {
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
