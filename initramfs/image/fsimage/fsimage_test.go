package fsimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// noise returns bytes that do not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// lines returns bytes that compress, and differ everywhere.
func lines(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "this is line %d of a file that somebody compresses\n", i*i)
	}
	return b.Bytes()[:n]
}

// tree makes a folder with everything in it that a root has, and returns it.
func tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string][]byte{
		"etc/passwd":                      []byte("root:x:0:0::/root:/bin/sh\n"),
		"etc/empty":                       nil,
		"usr/bin/noise":                   noise(3<<20 + 17),
		"usr/bin/lines":                   lines(2<<20 + 4097),
		"usr/bin/short-lines":             lines(9000),
		"usr/bin/mixed":                   slices.Concat(noise(5000), lines(300000), make([]byte, 400000), noise(70000), lines(5)),
		"usr/bin/block":                   noise(1 << 17),
		"usr/bin/blocks-and-one":          noise(1<<17 + 1),
		"usr/bin/page":                    lines(4096),
		"usr/" + strings.Repeat("n", 200): []byte("a long name"),
		"a/b/c/d/e/f/g/h":                 []byte("deep"),
	} {
		check(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	check(os.MkdirAll(filepath.Join(dir, "many"), 0o700))
	for i := range 3000 {
		check(os.WriteFile(filepath.Join(dir, "many", fmt.Sprintf("file-%d-with-some-name", i)), []byte(fmt.Sprint(i)), 0o600))
	}
	check(os.Mkdir(filepath.Join(dir, "void"), 0o755))
	check(os.Chmod(filepath.Join(dir, "usr/bin/page"), 0o755|os.ModeSetuid))
	check(os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	check(os.Symlink("/bin/page", filepath.Join(dir, "usr/bin/absolute")))
	check(os.Symlink(strings.Repeat("x/", 450), filepath.Join(dir, "long-link")))
	check(os.Symlink(strings.Repeat("y", 60), filepath.Join(dir, "link-of-60")))
	check(os.Symlink("loop", filepath.Join(dir, "loop")))
	check(os.Link(filepath.Join(dir, "etc/passwd"), filepath.Join(dir, "etc/passwd-")))
	check(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	check(err)
	check(sparse.Truncate(50 << 20))
	_, err = sparse.WriteAt([]byte("in the middle"), 30<<20-5)
	check(err)
	check(sparse.Close())
	return dir
}

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

// open opens an image file.
func open(t testing.TB, path string) (*FS, policy.FSType) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	kind, length, err := Detect(f)
	if err != nil {
		t.Fatalf("Detect: %v", err)
	}
	if length > fi.Size() || length < fi.Size()-4096 {
		t.Errorf("Detect = %d bytes; the image has %d", length, fi.Size())
	}
	fsys, err := Open(f, fi.Size())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return fsys, kind
}

type testImage struct {
	name string
	kind policy.FSType
	tool string
	args []string
}

// images is what people make.
var images = []testImage{
	{"squashfs zstd", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "zstd"}},
	{"squashfs gzip", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "gzip", "-b", "4096"}},
	{"squashfs xz", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "xz", "-b", "1M"}},
	{"squashfs lz4", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "lz4", "-no-fragments"}},
	{"squashfs plain", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX", "-always-use-fragments"}},
	{"erofs plain", policy.EROFS, "mkfs.erofs", []string{"OUT", "DIR"}},
	{"erofs chunks", policy.EROFS, "mkfs.erofs", []string{"--chunksize=65536", "OUT", "DIR"}},
	{"ext4", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext4", "-d", "DIR", "OUT", "64M"}},
	{"ext4 in small blocks", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext4", "-b", "1024", "-I", "128", "-O", "^64bit,^metadata_csum", "-d", "DIR", "OUT", "64M"}},
	{"ext3", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext3", "-b", "2048", "-d", "DIR", "OUT", "64M"}},
	{"ext2", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext2", "-b", "1024", "-d", "DIR", "OUT", "64M"}},
}

// compressed is what mkfs.erofs makes and the guest refuses: where the
// superblock says so, and where the files' inodes do and nothing else.
var compressed = []testImage{
	{"erofs lz4", policy.EROFS, "mkfs.erofs", []string{"-zlz4", "OUT", "DIR"}},
	{"erofs lz4hc in large clusters", policy.EROFS, "mkfs.erofs", []string{"-zlz4hc,12", "-C65536", "OUT", "DIR"}},
	{"erofs with full indexes", policy.EROFS, "mkfs.erofs", []string{"-zlz4", "-Elegacy-compress", "OUT", "DIR"}},
	{"erofs, full and large", policy.EROFS, "mkfs.erofs", []string{"-zlz4hc", "-C65536", "-Eforce-inode-extended", "-Elegacy-compress", "OUT", "DIR"}},
	{"erofs with inline tails", policy.EROFS, "mkfs.erofs", []string{"-zlz4hc", "-Eztailpacking", "OUT", "DIR"}},
	{"erofs with fragments", policy.EROFS, "mkfs.erofs", []string{"-zlz4hc", "-C65536", "-Efragments", "OUT", "DIR"}},
	{"erofs with all fragments", policy.EROFS, "mkfs.erofs", []string{"-zlz4", "-Eall-fragments,dedupe", "OUT", "DIR"}},
}

func TestCompressedEROFS(t *testing.T) {
	dir := tree(t)
	for _, tc := range compressed {
		f, err := os.Open(image(t, dir, tc.tool, tc.args...))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := Open(f, fi.Size())
		if err == nil {
			err = fs.WalkDir(fsys, ".", func(_ string, _ fs.DirEntry, err error) error { return err })
		}
		if !errors.Is(err, ErrFeature) || !strings.Contains(err.Error(), "compressed") {
			t.Errorf("%s: error = %v; want ErrFeature", tc.name, err)
		}
	}
}

// TestTree compares each image's tree with the folder that it was made of.
func TestTree(t *testing.T) {
	dir := tree(t)
	for _, tc := range images {
		t.Run(tc.name, func(t *testing.T) {
			fsys, kind := open(t, image(t, dir, tc.tool, tc.args...))
			if kind != tc.kind {
				t.Errorf("Detect = %s; want %s", kind, tc.kind)
			}
			compare(t, fsys, dir)
		})
	}
}

// compare holds a file system against a folder, in both directions.
func compare(t *testing.T, fsys *FS, dir string) {
	t.Helper()
	want := os.DirFS(dir).(fs.ReadLinkFS)
	count := 0
	walk := func(in fs.FS, other fs.ReadLinkFS, f func(name string, d fs.DirEntry)) {
		err := fs.WalkDir(in, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Fatal(err)
			}
			if name == "lost+found" {
				return fs.SkipDir
			}
			f(name, d)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(fsys, want, func(name string, _ fs.DirEntry) {
		if _, err := want.Lstat(name); err != nil {
			t.Errorf("the image has %s: %v", name, err)
		}
	})
	walk(want, fsys, func(name string, _ fs.DirEntry) {
		count++
		same(t, fsys, want, name)
	})
	if count < 3020 {
		t.Fatalf("%d files compared; the test looks at nothing", count)
	}
}

// same compares one file.
func same(t *testing.T, got, want fs.ReadLinkFS, name string) {
	t.Helper()
	w, err := want.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	g, err := got.Lstat(name)
	if err != nil {
		t.Error(err)
		return
	}
	if g.Mode() != w.Mode() || g.Name() != w.Name() {
		t.Errorf("%s: %s %s; want %s", name, g.Name(), g.Mode(), w.Mode())
	}
	switch w.Mode().Type() {
	case 0:
		a, err := fs.ReadFile(got, name)
		if err != nil {
			t.Error(err)
		}
		b, err := fs.ReadFile(want, name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) || g.Size() != w.Size() {
			t.Errorf("%s: %d bytes, which differ from the %d of the source", name, len(a), len(b))
		}
	case fs.ModeSymlink:
		a, err := got.ReadLink(name)
		b, _ := want.ReadLink(name)
		if err != nil || a != b {
			t.Errorf("%s: a link to %q (%v); want %q", name, a, err, b)
		}
	}
}

// Reads need not begin at the beginning.
func TestReadAt(t *testing.T) {
	dir := tree(t)
	for _, tc := range images {
		t.Run(tc.name, func(t *testing.T) {
			fsys, _ := open(t, image(t, dir, tc.tool, tc.args...))
			for _, name := range []string{"usr/bin/mixed", "sparse", "usr/bin/lines"} {
				want, err := os.Open(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				defer want.Close()
				fi, _ := want.Stat()
				got, err := fsys.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				r := rand.New(rand.NewPCG(1, 2))
				for range 50 {
					off, n := r.Int64N(fi.Size()+10), r.IntN(200000)
					a, b := make([]byte, n), make([]byte, n)
					gn, gerr := got.(io.ReaderAt).ReadAt(a, off)
					wn, werr := want.ReadAt(b, off)
					if gn != wn || (gerr == nil) != (werr == nil) || !bytes.Equal(a, b) {
						t.Fatalf("%s: ReadAt(%d bytes, %d) = %d, %v; want %d, %v", name, n, off, gn, gerr, wn, werr)
					}
				}
			}
		})
	}
}

func TestResolve(t *testing.T) {
	fsys, _ := open(t, image(t, tree(t), images[0].tool, images[0].args...))
	for name, want := range map[string]string{
		"bin/absolute":              "usr/bin/page",
		"bin":                       "usr/bin",
		"/bin/../../../etc//passwd": "etc/passwd",
		".":                         ".",
		"":                          ".",
	} {
		if got, err := Resolve(fsys, name); err != nil || got != want {
			t.Errorf("Resolve(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"absent", "etc/passwd/x", "long-link"} {
		if got, err := Resolve(fsys, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resolve(%q) = %q, %v; want ErrNotExist", name, got, err)
		}
	}
	if got, err := Resolve(fsys, "loop"); err == nil {
		t.Errorf("Resolve of a loop = %q", got)
	}
}

func TestErrors(t *testing.T) {
	fsys, _ := open(t, image(t, tree(t), images[0].tool, images[0].args...))
	if _, err := fsys.Open("bin/page"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open through a link: %v; want ErrNotExist", err)
	}
	if _, err := fsys.Open("/etc"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Open of an absolute path: %v; want ErrInvalid", err)
	}
	if _, err := fsys.ReadLink("etc"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadLink of a folder: %v; want ErrInvalid", err)
	}
	if _, err := fsys.ReadDir("etc/passwd"); err == nil {
		t.Error("ReadDir took a file")
	}
	if _, err := fs.ReadFile(fsys, "pipe"); err == nil {
		t.Error("ReadFile took a pipe")
	}
}
