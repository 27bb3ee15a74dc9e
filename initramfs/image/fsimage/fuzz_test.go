package fsimage

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/unlock/policy"
)

// small makes a folder that small images are made of.
func small(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"etc/passwd":   []byte("root:x:0:0::/root:/bin/sh\n"),
		"etc/sub/list": lines(9000),
		"bin/mixed":    append(lines(6000), noise(2000)...),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"sbin": "bin", "etc/far": strings.Repeat("../", 30) + "bin"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// seedImages returns a small image of each sort, without the checksums that
// would keep a fuzzer out.
func seedImages(t testing.TB) map[string][]byte {
	t.Helper()
	dir := small(t)
	seeds := make(map[string][]byte)
	for _, tc := range images {
		args := tc.args
		switch tc.name {
		case "ext4":
			args = []string{"-q", "-F", "-t", "ext4", "-b", "1024", "-N", "32", "-O", "^has_journal,^metadata_csum", "-d", "DIR", "OUT", "96k"}
		case "ext2":
			args = []string{"-q", "-F", "-t", "ext2", "-b", "1024", "-N", "32", "-d", "DIR", "OUT", "96k"}
		case "ext4 in small blocks", "ext3":
			continue
		}
		b := readFile(t, image(t, dir, tc.tool, args...))
		if tc.kind == policy.EROFS {
			b[secondSuper+8] &^= erofsSummed
		}
		if tc.kind == policy.Ext4 {
			b = b[:96<<10] // the test's file is larger than its file system
		}
		seeds[tc.name] = b
	}
	return seeds
}

// walkSome looks at everything of a tree, and stops after a while. It returns
// how many files it read to their end.
func walkSome(t testing.TB, fsys *FS) (read int) {
	steps := 0
	stop := errors.New("enough")
	fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if steps++; steps > 200 {
			return stop
		}
		if err != nil {
			checkError(t, err)
			return nil
		}
		switch d.Type() {
		case 0:
			f, err := fsys.Open(name)
			if err != nil {
				t.Fatalf("Open of the listed %q: %v", name, err)
			}
			n, err := io.Copy(io.Discard, io.LimitReader(f, 64<<10))
			checkError(t, err)
			if fi, _ := f.Stat(); err == nil && n == fi.Size() {
				read++
			}
		case fs.ModeSymlink:
			_, err := fsys.ReadLink(name)
			checkError(t, err)
			Resolve(fsys, name)
		}
		return nil
	})
	return read
}

func checkError(t testing.TB, err error) {
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFeature) && !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an error that is no ErrCorrupt: %v", err)
	}
}

// FuzzOpen reads any image to some depth.
func FuzzOpen(f *testing.F) {
	for _, b := range seedImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrRecovery) {
				checkError(t, err)
			}
			return
		}
		walkSome(t, fsys)
	})
}

// TestFuzzOpenSeeds shows that each seed is read to the last file, and that
// damage everywhere in it ends in an error or in other bytes, and no worse.
func TestFuzzOpenSeeds(t *testing.T) {
	seeds := seedImages(t)
	if len(seeds) < 9 {
		t.Fatalf("%d seeds; want at least 9", len(seeds))
	}
	for name, b := range seeds {
		fsys, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if read := walkSome(t, fsys); read != 3 {
			t.Errorf("%s: %d files read to their end; want 3", name, read)
		}
		step := max(len(b)/1500, 1)
		for at := 0; at < len(b); at += step {
			for _, v := range []byte{0x00, 0xff, b[at] ^ 0x10} {
				damaged := bytes.Clone(b)
				damaged[at] = v
				if fsys, err := Open(bytes.NewReader(damaged), int64(len(b))); err == nil {
					walkSome(t, fsys)
				}
			}
		}
	}
}

// TestLZ4 holds the decoder against what the format's text says.
func TestLZ4(t *testing.T) {
	for _, tc := range []struct {
		name, in, want string
		size           int
		bad            bool
	}{
		{"literals", "\x50hello", "hello", 5, false},
		{"a match that overlaps itself", "\x12a\x01\x00\x10b", "aaaaaaab", 8, false},
		{"full before the end", "\x12a\x01\x00\x10b", "aaa", 3, false},
		{"a long run", "\xf0\x01" + strings.Repeat("x", 16), strings.Repeat("x", 16), 16, false},
		{"nothing", "", "", 4, false},
		{"a match of nothing", "\x12a\x00\x00\x10b", "", 8, true},
		{"a match before the start", "\x12a\x02\x00\x10b", "", 8, true},
		{"cut in the literals", "\x50hel", "", 5, true},
		{"cut in the match", "\x12a\x01", "", 8, true},
		{"cut in a length", "\xf0\xff\xff", "", 800, true},
	} {
		dst := make([]byte, tc.size)
		n, err := lz4Block(dst, []byte(tc.in))
		if (err != nil) != tc.bad || !tc.bad && string(dst[:n]) != tc.want {
			t.Errorf("%s: lz4Block = %q, %v; want %q", tc.name, dst[:n], err, tc.want)
		}
	}
}
