package main_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestKernelsOwnWords boots one root twice: sealed, through init, and plain,
// with the kernel mounting it by itself. The image's program gets the same
// arguments and the same environment.
func TestKernelsOwnWords(t *testing.T) {
	t.Parallel()
	s := standardImage(t)
	const words = ` key=value lonely dotted.word=x HOME=/elsewhere quoted="two words" -- first second`
	sealed := s.boots(t)
	sealed.cmdline += words

	plain := s.boots(t)
	plain.image = filepath.Join(t.TempDir(), "fs")
	makeSquashfs(t, filepath.Join(filepath.Dir(s.path), "root"), plain.image)
	plain.initrd, plain.entries = "", nil
	plain.cmdline = "console=ttyS0 panic=-1 root=/dev/vda ro rootfstype=squashfs" + words

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

// line returns the first line of a console from prefix on.
func line(console, prefix string) string {
	_, rest, ok := strings.Cut(console, prefix)
	if !ok {
		return ""
	}
	rest, _, _ = strings.Cut(rest, "\r\n")
	return prefix + rest
}
