package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/image/fsimage"
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

// fullRoot makes a folder with everything in it that a root has, and returns it.
func fullRoot(t testing.TB) string {
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

// stockImage runs a tool that makes an image of a folder, and returns its path. The
// arguments have OUT and DIR in them.
func stockImage(t testing.TB, dir, tool string, args ...string) string {
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

type readyImage struct {
	name string
	kind policy.FSType
	tool string
	args []string
}

// readyImages is what people make.
var readyImages = []readyImage{
	{"squashfs zstd", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "zstd"}},
	{"squashfs gzip", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "gzip", "-b", "4096"}},
	{"squashfs xz", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "xz", "-b", "1M"}},
	{"squashfs lz4", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-comp", "lz4", "-no-fragments"}},
	{"squashfs plain", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX", "-always-use-fragments"}},
	{"erofs plain", policy.EROFS, "mkfs.erofs", []string{"OUT", "DIR"}},
	{"erofs chunks", policy.EROFS, "mkfs.erofs", []string{"--chunksize=65536", "OUT", "DIR"}},
	{"erofs in the larger form", policy.EROFS, "mkfs.erofs", []string{"-Eforce-inode-extended", "OUT", "DIR"}},
	{"ext4", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext4", "-d", "DIR", "OUT", "64M"}},
	{"ext4 in small blocks", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext4", "-b", "1024", "-I", "128", "-O", "^64bit,^metadata_csum", "-d", "DIR", "OUT", "64M"}},
	{"ext3", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext3", "-b", "2048", "-d", "DIR", "OUT", "64M"}},
	{"ext2", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext2", "-b", "1024", "-d", "DIR", "OUT", "64M"}},
}

// TestReadyTree compares what is shown of each ready image with the folder that it
// was made of.
func TestReadyTree(t *testing.T) {
	dir := fullRoot(t)
	for _, tc := range readyImages {
		t.Run(tc.name, func(t *testing.T) {
			looked := false
			image := build(t, stockImage(t, dir, tc.tool, tc.args...), Options{Look: func(root *fsimage.Node, kind policy.FSType) error {
				if looked = true; kind != tc.kind {
					t.Errorf("it is %s; want %s", kind, tc.kind)
				}
				compare(t, root, dir, kind == policy.EROFS) // elsewhere, a process a file
				return nil
			}})
			if !looked || image.Type != tc.kind {
				t.Errorf("looked %v at %s", looked, image.Type)
			}
		})
	}
}

// TestSourceTree: a folder and a tar are shown as the image made of them.
func TestSourceTree(t *testing.T) {
	dir := fullRoot(t)
	tarred := filepath.Join(t.TempDir(), "root.tar")
	oracle.Run(t, oracle.Tool(t, "tar"), "-C", dir, "-cf", tarred, ".")
	for _, source := range []string{dir, tarred} {
		looked := false
		build(t, source, Options{Look: func(root *fsimage.Node, kind policy.FSType) error {
			looked = kind == policy.Squashfs
			compare(t, root, dir, source == dir)
			return nil
		}})
		if !looked {
			t.Errorf("%s: nobody looked", source)
		}
	}
	stop := errors.New("stop")
	for _, source := range []string{dir, tarred} {
		if _, err := Make(t.Context(), source, t.TempDir(), Options{Look: func(*fsimage.Node, policy.FSType) error { return stop }}); !errors.Is(err, stop) {
			t.Errorf("%s: %v; want what Look returned", source, err)
		}
	}
}

// TestHostileNames: what a name or a link says is never taken for something else.
func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a\nb", "/12/100644/0/0/x/1/\n"[1:], "-rw-r--r-- 0\n", "sp ace\"q\\b*?['$(x)", "\x1b[31m", "--", "-d"}
	for i, n := range names {
		n = strings.ReplaceAll(n, "/", "|")
		names[i] = n
		if err := errors.Join(os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600), os.Symlink("x\n/5/100644/0/0/shadow/9/\n"+n, filepath.Join(dir, "l"+n))); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []readyImage{
		{"squashfs", policy.Squashfs, "mksquashfs", []string{"DIR", "OUT", "-quiet", "-no-progress"}},
		{"erofs", policy.EROFS, "mkfs.erofs", []string{"OUT", "DIR"}}, {"ext4", policy.Ext4, "mke2fs", []string{"-q", "-F", "-t", "ext4", "-d", "DIR", "OUT", "64M"}},
	} {
		build(t, stockImage(t, dir, tc.tool, tc.args...), Options{Look: func(root *fsimage.Node, _ policy.FSType) error {
			all := treeContents(t, root)
			if len(all) != 2*len(names) {
				t.Errorf("%s: %d names; want %d", tc.name, len(all), 2*len(names))
			}
			for _, n := range names {
				if all[n] != n {
					t.Errorf("%s: %q = %q", tc.name, n, all[n])
				}
				if text := all["l"+n]; !strings.HasPrefix(text, "-> x\n") || !strings.HasSuffix(text, "\n"+n) {
					t.Errorf("%s: the link %q = %q", tc.name, n, text)
				}
			}
			return nil
		}})
	}
}

// TestBombs: files that are far longer than their image are not unpacked.
func TestBombs(t *testing.T) {
	dir := t.TempDir()
	bomb := filepath.Join(dir, "bomb")
	if err := errors.Join(os.WriteFile(bomb, nil, 0o600), os.Truncate(bomb, leastRoom+1)); err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(dir, "etc")
	if err := os.WriteFile(small, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	oracle.Run(t, oracle.Tool(t, "mksquashfs"), dir, path, "-quiet", "-no-progress", "-b", "1M")
	look := func(*fsimage.Node, policy.FSType) error { return nil }
	into := t.TempDir()
	if _, err := Make(t.Context(), path, into, Options{Look: look}); !errors.Is(err, fsimage.ErrCorrupt) {
		t.Errorf("a squashfs with a file that is longer than its room: %v; want ErrCorrupt", err)
	}
	if left, _ := os.ReadDir(into); len(left) != 0 {
		t.Errorf("it was unpacked: %v", left)
	}
}

// compare holds a file system against a folder, in both directions.
func compare(t *testing.T, root *fsimage.Node, dir string, all bool) {
	t.Helper()
	want, err := fsimage.Of(os.DirFS(dir).(fs.ReadLinkFS))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*fsimage.Node{}
	walkNodes(t, root, "", func(path string, n *fsimage.Node) { got[path] = n })
	count := 0
	walkNodes(t, want, "", func(path string, w *fsimage.Node) {
		count++
		g := got[path]
		delete(got, path)
		switch {
		case g == nil:
			t.Errorf("the image has no %s", path)
		case all || !strings.HasPrefix(path, "many/file-") || strings.HasSuffix(path, "00-with-some-name"):
			same(t, g, w, path)
		}
	})
	for path := range got {
		t.Errorf("the image has %s", path)
	}
	if count < 3020 {
		t.Fatalf("%d files compared; the test looks at nothing", count)
	}
}

// same compares one file.
func same(t *testing.T, got, want *fsimage.Node, name string) {
	t.Helper()
	if got.Mode != want.Mode {
		t.Errorf("%s: %s; want %s", name, got.Mode, want.Mode)
	}
	if got.Mode.IsRegular() && got.Size != want.Size {
		t.Errorf("%s: %d bytes; want %d", name, got.Size, want.Size)
	}
	if !got.Mode.IsRegular() && got.Mode.Type() != fs.ModeSymlink {
		return
	}
	a, errA := got.Data()
	b, errB := want.Data()
	if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
		t.Errorf("%s: %d bytes, which differ from the %d of the source (%v)", name, len(a), len(b), err)
	}
}
