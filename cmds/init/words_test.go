package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// TestKernelsOwnWords boots one root twice: sealed, through init, and plain,
// as the kernel's own first root. The image's program gets the same
// arguments and the same environment.
func TestKernelsOwnWords(t *testing.T) {
	t.Parallel()
	s := standardImage(t)
	const words = ` key=value lonely dotted.word=x HOME=/elsewhere quoted="two words" -- first second`
	sealed := s.boots(t)
	sealed.cmdline += words

	plain := s.boots(t)
	plain.initrd = filepath.Join(t.TempDir(), "cpio")
	makeCpio(t, filepath.Join(filepath.Dir(s.path), "root"), plain.initrd)
	plain.image, plain.entries = "", nil
	plain.cmdline = "console=ttyS0 panic=-1 rdinit=/sbin/init" + words

	got, want := sealed.runs(t).console, plain.runs(t).console
	for _, what := range []string{"boot-test: arguments ", "boot-test: environment "} {
		if g, w := line(got, what), line(want, what); g != w || g == "" {
			t.Errorf("through init   %q\nfrom the kernel %q", g, w)
		}
	}
	if l := line(want, "boot-test: environment "); !strings.Contains(l, "quoted=two words") || strings.Contains(l, "dotted") {
		t.Errorf("%q; the test looks at nothing", l)
	}
}

func makeCpio(t *testing.T, root, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, r := cpio.Newc.Writer(f), cpio.NewRecorder()
	err = filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		record, err := r.GetRecord(p)
		if err != nil {
			return err
		}
		if record.Name, err = filepath.Rel(root, p); err != nil {
			return err
		}
		return w.WriteRecord(record)
	})
	if err == nil {
		err = cpio.WriteTrailer(w)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// line returns the first line of a console from prefix on.
func line(console, prefix string) string {
	_, rest, ok := strings.Cut(console, prefix)
	if !ok {
		return ""
	}
	rest, _, _ = strings.Cut(rest, "\r\n")
	return prefix + rest
}
