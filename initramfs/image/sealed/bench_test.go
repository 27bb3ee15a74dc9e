package sealed

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
)

// sealSize tells the test binary to seal so many bytes of holes and to print
// the most memory that it ever held.
const sealSize = "COCOROOT_TEST_SEAL_SIZE"

func TestMain(m *testing.M) {
	if size := os.Getenv(sealSize); size != "" {
		if err := printPeak(size); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// discard is an io.WriterAt that keeps nothing.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func printPeak(text string) error {
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	src, err := os.CreateTemp("", "cocoroot-holes-*")
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.Remove(src.Name()); err != nil {
		return err
	}
	if err := src.Truncate(size); err != nil {
		return err
	}
	if _, err := Write(context.Background(), discard{}, src, size, options()); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			_, err := fmt.Println(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return err
		}
	}
	return fmt.Errorf("no VmHWM in /proc/self/status")
}

// peak returns the most memory, in bytes, that a process held which sealed
// size bytes. It comes from the process itself: getrusage would report what
// the test held when it started the process, if that is more.
func peak(t testing.TB, size int64) int64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", sealSize, size), "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	kib, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// memoryLimit is what issue and README promise, in bytes, beside the buffers.
const memoryLimit = 64 << 20

func buffers() int64 { return int64(runtime.GOMAXPROCS(0)+1) * chunkSize }

func TestMemoryStaysTheSame(t *testing.T) {
	small, large := peak(t, 32<<20), peak(t, 1<<30)
	if large > memoryLimit+buffers() {
		t.Errorf("sealing 1 GiB took %d KiB; want at most %d", large>>10, (memoryLimit+buffers())>>10)
	}
	// A digest for each block of 1 GiB would be 8 MiB.
	if large > small+(6<<20) {
		t.Errorf("sealing 1 GiB took %d KiB, and 32 MiB took %d", large>>10, small>>10)
	}
}

// BenchmarkWrite is only the pipeline: from memory to nowhere.
func BenchmarkWrite(b *testing.B) {
	src := source(64 << 20)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, err := Write(context.Background(), discard{}, bytes.NewReader(src), int64(len(src)), options()); err != nil {
			b.Fatal(err)
		}
	}
}

// fixed is an io.WriterAt in memory that is there already.
type fixed []byte

func (f fixed) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(f)) {
		return 0, io.ErrShortWrite
	}
	return copy(f[off:], p), nil
}

// BenchmarkSeal compares ways to seal the same file of 1 GiB, which is in
// the page cache, side by side in every round (-benchtime 5x: five), and
// reports the medians:
//
//	stock-MB/s       cryptsetup reencrypt --encrypt in place, then veritysetup
//	                 format, to the end of fsync
//	limit-MB/s       OpenSSL's aes-256-xts and then its SHA-256, 4096 bytes at a
//	                 time, on all processors, with nothing read or written
//	file-MB/s        Write to a new file on the same disk, to the end of fsync
//	memory-MB/s      Write to memory
//	file/stock       how many times as fast
//	memory/limit     as a fraction
//	peak-1G-MiB      memory that sealing 1 GiB takes, and 16 GiB of holes
//	peak-16G-MiB
//
// Elapsed time counts, also for OpenSSL: other work on the machine slows down
// everyone alike.
func BenchmarkSeal(b *testing.B) {
	const size = 1 << 30
	cryptsetup, veritysetup, openssl := oracle.Tool(b, "cryptsetup"), oracle.Tool(b, "veritysetup"), oracle.Tool(b, "openssl")
	dir := b.TempDir()
	src := filepath.Join(dir, "source")
	randomFile(b, src, size)
	n, err := ImageSize(size)
	if err != nil {
		b.Fatal(err)
	}
	out := make(fixed, n)
	for i := 0; i < len(out); i += os.Getpagesize() {
		out[i] = 1 // no page is to be made while the clock runs
	}
	var stock, limit, toFile, toMemory []float64
	for b.Loop() {
		stock = append(stock, size/stockSeal(b, cryptsetup, veritysetup, src, size).Seconds())
		limit = append(limit, opensslLimit(b, openssl))
		toFile = append(toFile, size/sealFile(b, src, filepath.Join(dir, "image")).Seconds())
		toMemory = append(toMemory, size/timed(b, func() error { return sealTo(out, src) }).Seconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(stock)/1e6, "stock-MB/s")
	b.ReportMetric(median(limit)/1e6, "limit-MB/s")
	b.ReportMetric(median(toFile)/1e6, "file-MB/s")
	b.ReportMetric(median(toMemory)/1e6, "memory-MB/s")
	b.ReportMetric(median(toFile)/median(stock), "file/stock")
	b.ReportMetric(median(toMemory)/median(limit), "memory/limit")
	b.ReportMetric(float64(peak(b, 1<<30))/(1<<20), "peak-1G-MiB")
	b.ReportMetric(float64(peak(b, 16<<30))/(1<<20), "peak-16G-MiB")
}

func randomFile(b *testing.B, path string, size int64) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{3}), size); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

// timed returns how long f takes.
func timed(b *testing.B, f func() error) time.Duration {
	b.Helper()
	start := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func sealTo(dst io.WriterAt, path string) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	_, err = Write(context.Background(), dst, src, fi.Size(), options())
	return err
}

// sealFile seals into a new file, which is removed afterwards.
func sealFile(b *testing.B, src, path string) time.Duration {
	b.Helper()
	defer os.Remove(path)
	return timed(b, func() error {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := sealTo(f, src); err != nil {
			return err
		}
		return f.Sync()
	})
}

// stockSeal seals a copy of the source with stock tools and our parameters.
// They encrypt in place, so making the copy does not count.
func stockSeal(b *testing.B, cryptsetup, veritysetup, src string, size int64) time.Duration {
	b.Helper()
	const header = 32 << 20 // cryptsetup wants twice the header's 16 MiB
	dir := b.TempDir()
	image, key := filepath.Join(dir, "image"), filepath.Join(dir, "key")
	defer os.RemoveAll(dir)
	oracle.Run(b, "cp", "--sparse=never", src, image)
	if err := os.Truncate(image, size+header); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, "sync", image)
	if err := os.WriteFile(key, passphrase, 0o600); err != nil {
		b.Fatal(err)
	}
	return timed(b, func() error {
		oracle.Run(b, cryptsetup, "reencrypt", "-q", "--encrypt", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
			"--sector-size", "4096", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
			"--reduce-device-size", strconv.Itoa(header), "--key-file", key, image)
		oracle.Run(b, veritysetup, "format", "--salt="+hex.EncodeToString(make([]byte, saltSize)),
			fmt.Sprintf("--data-blocks=%d", (size+header)/blockSize), fmt.Sprintf("--hash-offset=%d", size+header), image, image)
		oracle.Run(b, "sync", image)
		return nil
	})
}

// opensslLimit returns how many bytes a second all processors encrypt and
// then hash.
func opensslLimit(b *testing.B, openssl string) float64 {
	b.Helper()
	rate := func(algorithm string) float64 {
		out := oracle.Run(b, openssl, "speed", "-elapsed", "-multi", strconv.Itoa(runtime.GOMAXPROCS(0)), "-seconds", "2",
			"-bytes", strconv.Itoa(blockSize), "-evp", algorithm)
		fields := strings.Fields(out)
		kb, err := strconv.ParseFloat(strings.TrimSuffix(fields[len(fields)-1], "k"), 64) // in 1000 bytes a second
		if err != nil || kb <= 0 {
			b.Fatalf("openssl speed ends with %q", fields[len(fields)-1])
		}
		return kb * 1000
	}
	return 1 / (1/rate("aes-256-xts") + 1/rate("sha256"))
}

func median[T cmp.Ordered](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}
