package squashfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/oracle"
)

func makeFS(t *testing.T, source string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "fs")
	if err := Make(t.Context(), source, out, 0); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMakeIsReproducible(t *testing.T) {
	oracle.Tool(t, Program)
	t.Setenv("SOURCE_DATE_EPOCH", "12345") // must neither matter nor disturb
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "file"), bytes.Repeat([]byte("data"), 1000), 0o640); err != nil {
		t.Fatal(err)
	}
	first := makeFS(t, folder)
	t.Setenv("TZ", "Asia/Tokyo")
	if !bytes.Equal(first, makeFS(t, folder)) {
		t.Error("two file systems of one folder differ")
	}
}

func TestMakeOfTar(t *testing.T) {
	oracle.Tool(t, Program)
	oracle.Tool(t, "unsquashfs")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/shadow", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 0, Gid: 42, Size: 3},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	w.Write([]byte("abc"))
	w.Close()
	dir := t.TempDir()
	source, out := filepath.Join(dir, "root.tar"), filepath.Join(dir, "fs")
	if err := os.WriteFile(source, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Make(t.Context(), source, out, 0); err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("unsquashfs", "-lln", out).CombinedOutput()
	if err != nil {
		t.Fatalf("unsquashfs: %v\n%s", err, list)
	}
	for _, want := range []string{"drwxr-xr-x", "-rw-r----- 0/42"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("unsquashfs =\n%s\nwant %q in it", list, want)
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	oracle.Tool(t, Program)
	dir := t.TempDir()
	gz := filepath.Join(dir, "root.tar.gz")
	if err := os.WriteFile(gz, append([]byte{0x1f, 0x8b}, make([]byte, 600)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Make(t.Context(), gz, filepath.Join(dir, "fs"), 0); !errors.Is(err, ErrInput) {
		t.Errorf("compressed tar: %v; want ErrInput", err)
	}
	if err := Make(t.Context(), filepath.Join(dir, "absent"), filepath.Join(dir, "fs"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent source: %v; want ErrNotExist", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Make(ctx, dir, filepath.Join(dir, "fs"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v; want Canceled", err)
	}
}
