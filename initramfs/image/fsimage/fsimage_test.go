package fsimage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cocoroot/initramfs/oracle"
)

// image runs a tool that makes an image of a folder, and returns its path. The
// arguments have OUT and DIR in them.
func image(t testing.TB, dir, tool string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	args = slices.Clone(args)
	for i, a := range args {
		args[i] = strings.NewReplacer("OUT", out, "DIR", dir).Replace(a)
	}
	if tool == "mke2fs" {
		if err := os.WriteFile(out, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(out, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, oracle.Tool(t, tool), args...)
	return out
}

func link(text string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(text), Mode: fs.ModeSymlink | 0o777}
}

func some(t *testing.T) *Node {
	t.Helper()
	root, err := Of(fstest.MapFS{
		"etc/passwd": {Data: []byte("root"), Mode: 0o644}, "usr/bin/page": {Data: []byte("p"), Mode: 0o755}, "usr/bin/absolute": link("/bin/page"),
		"bin": link("usr/bin"), "loop": link("loop"), "far": link(strings.Repeat("x/", 450)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestFind(t *testing.T) {
	root := some(t)
	for name, want := range map[string]string{
		"bin/absolute":              "usr/bin/page",
		"bin":                       "usr/bin",
		"/bin/../../../etc//passwd": "etc/passwd",
		".":                         ".",
		"":                          ".",
	} {
		if _, got, err := root.Find(name, true); err != nil || got != want {
			t.Errorf("Find(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"absent", "etc/passwd/x", "far"} {
		if _, got, err := root.Find(name, true); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Find(%q) = %q, %v; want ErrNotExist", name, got, err)
		}
	}
	if _, got, err := root.Find("loop", true); !errors.Is(err, ErrLoop) {
		t.Errorf("Find of a loop = %q, %v; want ErrLoop", got, err)
	}
	n, got, err := root.Find("bin/absolute", false)
	if err != nil || got != "usr/bin/absolute" {
		t.Fatalf("Find of a link itself = %q, %v", got, err)
	}
	if text, err := n.Data(); err != nil || string(text) != "/bin/page" {
		t.Errorf("its text = %q, %v", text, err)
	}
	if n, _, err := root.Find("etc/passwd", true); err != nil || n.Size != 4 || n.Mode != 0o644 {
		t.Errorf("a file: %+v, %v", n, err)
	}
}

// TestLargeFolder: no folder has more entries than are held in memory.
func TestLargeFolder(t *testing.T) {
	for entries, fails := range map[int]bool{maxEntries: false, maxEntries + 1: true} {
		_, err := manyNames(entries).Names()
		if (err != nil) != fails {
			t.Errorf("%d entries: %v", entries, err)
		}
	}
}

// manyNames is a folder with so many names of one file.
func manyNames(n int) *Node {
	root, _ := Of(large{n})
	return root
}

type large struct{ entries int }

func (l large) Open(string) (fs.File, error)           { return &largeFolder{l, 0}, nil }
func (l large) ReadLink(string) (string, error)        { return "", fs.ErrInvalid }
func (l large) Lstat(name string) (fs.FileInfo, error) { return fstest.MapFS{"x": {}}.Lstat("x") }

type largeFolder struct {
	large
	at int
}

func (l *largeFolder) Stat() (fs.FileInfo, error) { return l.Lstat("") }
func (l *largeFolder) Read([]byte) (int, error)   { return 0, fs.ErrInvalid }
func (l *largeFolder) Close() error               { return nil }
func (l *largeFolder) ReadDir(n int) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	for ; len(out) < n && l.at < l.entries; l.at++ {
		out = append(out, numbered(l.at))
	}
	return out, nil
}

// numbered is an entry of a folder.
type numbered int

func (n numbered) Name() string               { return fmt.Sprint(int(n)) }
func (n numbered) IsDir() bool                { return false }
func (n numbered) Type() fs.FileMode          { return 0 }
func (n numbered) Info() (fs.FileInfo, error) { return nil, fs.ErrInvalid }

// erofsOf makes an erofs of a folder with a/aaaaaaaa and b.
func erofsOf(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "a/aaaaaaaa"), []byte("0123456789"), 0o644), os.WriteFile(filepath.Join(dir, "b"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	return readFile(t, image(t, dir, "mkfs.erofs", "OUT", "DIR"))
}

// lookThrough reads all of an erofs, as far as the nodes go, 8 folders deep.
func lookThrough(b []byte) (files int, err error) {
	if _, _, err := Detect(bytes.NewReader(b)); err != nil {
		return 0, err
	}
	root, err := EROFS(bytes.NewReader(b))
	if err != nil {
		return 0, err
	}
	var look func(n *Node, depth int) error
	look = func(n *Node, depth int) error {
		if files++; depth > 8 || files > 1000 {
			return nil
		}
		if !n.Mode.IsDir() {
			_, err := n.Data()
			return err
		}
		names, err := n.Names()
		for _, child := range names {
			err = errors.Join(err, look(child, depth+1))
		}
		return err
	}
	return files, look(root, 0)
}

func TestEROFS(t *testing.T) {
	b := erofsOf(t)
	b[secondSuper+80] |= erofsZeroPadding // as other versions of the tool have it
	b[secondSuper+85] = 1                 // how far LZ4 would look back
	root, err := EROFS(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	n, _, err := root.Find("/a/aaaaaaaa", true)
	if err != nil || n.Mode != 0o644 || n.Size != 10 {
		t.Fatalf("a file: %+v, %v", n, err)
	}
	if data, err := n.Data(); err != nil || string(data) != "0123456789" {
		t.Errorf("its data = %q, %v", data, err)
	}
}

// FuzzEROFS looks through any bytes.
func FuzzEROFS(f *testing.F) {
	b := erofsOf(f)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { lookThrough(b) })
}

// TestFuzzEROFSSeeds: the seed is looked through, and damage everywhere in it
// ends.
func TestFuzzEROFSSeeds(t *testing.T) {
	b := erofsOf(t)
	if n, err := lookThrough(b); err != nil || n != 4 {
		t.Fatalf("the seed: %d files, %v", n, err)
	}
	for at := range b {
		for _, v := range []byte{0, 0xff, b[at] ^ 0x10} {
			damaged := bytes.Clone(b)
			damaged[at] = v
			lookThrough(damaged)
		}
	}
}
