package fsimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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

// leaf is a file, or with a mode a link.
func leaf(mode fs.FileMode, data string) *Node {
	return &Node{Mode: mode, Size: int64(len(data)), Data: func() ([]byte, error) { return []byte(data), nil }}
}

func branch(names map[string]*Node) *Node {
	return &Node{Mode: fs.ModeDir | 0o755, Names: func() (map[string]*Node, error) { return names, nil }}
}

var some = Tree{branch(map[string]*Node{
	"etc": branch(map[string]*Node{"passwd": leaf(0o644, "root")}), "usr": branch(map[string]*Node{"bin": branch(map[string]*Node{
		"page": leaf(0o755, "p"), "absolute": leaf(fs.ModeSymlink, "/bin/page"),
	})}),
	"bin": leaf(fs.ModeSymlink, "usr/bin"), "loop": leaf(fs.ModeSymlink, "loop"), "far": leaf(fs.ModeSymlink, strings.Repeat("x/", 450)),
})}

func TestTree(t *testing.T) {
	if data, err := fs.ReadFile(some, "etc/passwd"); err != nil || string(data) != "root" {
		t.Errorf("ReadFile = %q, %v", data, err)
	}
	for _, name := range []string{"bin/page", "absent", "etc/passwd/x"} {
		if _, err := some.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%s): %v; want ErrNotExist", name, err)
		}
	}
	if _, err := some.ReadLink("etc"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadLink of a folder: %v; want ErrInvalid", err)
	}
	if _, err := some.ReadDir("etc/passwd"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadDir of a file: %v; want ErrInvalid", err)
	}
	if _, err := some.Open("bin"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Open of a link: %v; want ErrInvalid", err)
	}
}

func TestResolve(t *testing.T) {
	for name, want := range map[string]string{
		"bin/absolute":              "usr/bin/page",
		"bin":                       "usr/bin",
		"/bin/../../../etc//passwd": "etc/passwd",
		".":                         ".",
		"":                          ".",
	} {
		if got, err := Resolve(some, name); err != nil || got != want {
			t.Errorf("Resolve(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"absent", "etc/passwd/x", "far"} {
		if got, err := Resolve(some, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resolve(%q) = %q, %v; want ErrNotExist", name, got, err)
		}
	}
	if got, err := Resolve(some, "loop"); err == nil {
		t.Errorf("Resolve of a loop = %q", got)
	}
}

// erofsOf makes an erofs of a folder with a/aaaaaaaa and b.
func erofsOf(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "a/aaaaaaaa"), []byte("0123456789"), 0o644), os.WriteFile(filepath.Join(dir, "b"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	return readFile(t, image(t, dir, "mkfs.erofs", "OUT", "DIR"))
}

// resum sets the superblock's checksum.
func resum(b []byte) []byte {
	clear(b[secondSuper+4 : secondSuper+8])
	binary.LittleEndian.PutUint32(b[secondSuper+4:], ^crc32.Checksum(b[secondSuper:4096], castagnoli))
	return b
}

func TestCheckEROFS(t *testing.T) {
	good := erofsOf(t)
	if n, err := CheckEROFS(bytes.NewReader(good)); err != nil || n != 10 {
		t.Fatalf("CheckEROFS = %d, %v; want 10 bytes", n, err)
	}
	for name, to := range map[string]string{"a slash": "../../zz", "dots": "..\x00aaaaa", "a NUL": "aa\x00aaaaa"} {
		bad := resum(bytes.Replace(good, []byte("aaaaaaaa"), []byte(to), 1))
		if _, err := CheckEROFS(bytes.NewReader(bad)); name == "a slash" && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v; want ErrCorrupt", name, err)
		}
	}
	// A folder that has the root in it: all entries lead to the root's inode.
	root := binary.LittleEndian.Uint16(good[secondSuper+14:])
	loop := bytes.Clone(good)
	at := bytes.Index(loop, []byte("aaaaaaaa"))
	for i := at &^ 3; i > 0; i-- { // the last entry before the names of a's folder
		if binary.LittleEndian.Uint16(loop[i+8:]) >= 36 && loop[i+10] == 1 {
			binary.LittleEndian.PutUint64(loop[i:], uint64(root))
			break
		}
	}
	if _, err := CheckEROFS(bytes.NewReader(resum(loop))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a folder with the root in it: %v; want ErrCorrupt", err)
	}
}

// FuzzCheckEROFS walks through any bytes.
func FuzzCheckEROFS(f *testing.F) {
	b := erofsOf(f)
	b[secondSuper+8] &^= erofsSummed // the checksum would keep the fuzzer out
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := CheckEROFS(bytes.NewReader(b)); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrFeature) && !errors.Is(err, ErrUnknown) {
			t.Errorf("CheckEROFS = %v", err)
		}
	})
}

// TestFuzzCheckEROFSSeeds: the seed is walked through, and damage everywhere in it
// ends.
func TestFuzzCheckEROFSSeeds(t *testing.T) {
	b := erofsOf(t)
	b[secondSuper+8] &^= erofsSummed
	if n, err := CheckEROFS(bytes.NewReader(b)); err != nil || n != 10 {
		t.Fatalf("the seed: %d, %v", n, err)
	}
	for at := range b {
		for _, v := range []byte{0, 0xff, b[at] ^ 0x10} {
			damaged := bytes.Clone(b)
			damaged[at] = v
			CheckEROFS(bytes.NewReader(damaged))
		}
	}
}
