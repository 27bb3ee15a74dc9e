package sealed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"cocoroot/unlock/verity/tree"
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

func buffers() int64 { return int64(runtime.GOMAXPROCS(0)+1) * tree.LeafSize }

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
