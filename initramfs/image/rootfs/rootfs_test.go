package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// entry is one of a tar; data makes it a file.
type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func folder(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Mode: 0o777, Linkname: target}, ""}
}

// attributed is a file with one pax record, readable by its group.
func attributed(name, key, value string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o664, Format: tar.FormatPAX, PAXRecords: map[string]string{key: value}}, ""}
}

func makeTar(t testing.TB, all ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range all {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// build makes the file system of source, which lies in a folder that no test
// shares with another.
func build(t *testing.T, source string, o Options) *Image {
	t.Helper()
	oracle.Tool(t, mksquashfs)
	image, err := Make(t.Context(), source, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { image.Close() })
	return image
}

// contents lists the regular files and their bytes, links and their targets,
// and folders.
func contents(t *testing.T, image *Image) map[string]string {
	t.Helper()
	var all map[string]string
	look := func(root *fsimage.Node, _ policy.FSType) error { all = treeContents(t, root); return nil }
	if err := (Options{Look: look}).lookAt(t.Context(), image.File, image.Type, image.Size); err != nil {
		t.Fatal(err)
	}
	return all
}

// walkNodes calls f for all that is below a folder.
func walkNodes(t *testing.T, folder *fsimage.Node, prefix string, f func(path string, n *fsimage.Node)) {
	t.Helper()
	names, err := folder.Names()
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range names {
		if path := prefix + name; path != "lost+found" {
			f(path, n)
			if n.Mode.IsDir() {
				walkNodes(t, n, path+"/", f)
			}
		}
	}
}

func treeContents(t *testing.T, root *fsimage.Node) map[string]string {
	t.Helper()
	all := map[string]string{}
	walkNodes(t, root, "", func(path string, n *fsimage.Node) {
		switch {
		case n.Mode.IsDir():
			all[path] = "/"
		case n.Mode.IsRegular(), n.Mode.Type() == fs.ModeSymlink:
			data, err := n.Data()
			if err != nil {
				t.Fatal(err)
			}
			all[path] = string(data)
			if !n.Mode.IsRegular() {
				all[path] = "-> " + string(data)
			}
		default:
			all[path] = n.Mode.Type().String()
		}
	})
	return all
}

func wantContents(t *testing.T, image *Image, want map[string]string) {
	t.Helper()
	wantAll(t, contents(t, image), want)
}

func wantAll(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path, data := range want {
		if got[path] != data {
			t.Errorf("%s = %.60q; want %.60q", path, got[path], data)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s is in the image; want it absent", path)
		}
	}
}

func listing(t *testing.T, image *Image) string {
	t.Helper()
	return oracle.Run(t, oracle.Tool(t, "unsquashfs"), "-lln", image.File.Name())
}

var small = []entry{folder("etc/"), file("etc/hostname", "guest\n"), link(tar.TypeSymlink, "bin", "usr/bin")}

var smallContents = map[string]string{"etc": "/", "etc/hostname": "guest\n", "bin": "-> usr/bin"}

// compressions are the ways a tar comes.
var compressions = map[string]func(io.Writer) (io.WriteCloser, error){
	"tar": func(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil },
	"gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	"xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compress(t testing.TB, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := compressions[how](&b)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCompressedTars(t *testing.T) {
	whole := makeTar(t, small...)
	for how := range compressions {
		t.Run(how, func(t *testing.T) {
			data := compress(t, how, whole)
			wantContents(t, build(t, write(t, "root", data), Options{}), smallContents)
			// Streams after one another, as pigz, pzstd and pixz write them.
			parts := append(compress(t, how, whole[:700]), compress(t, how, whole[700:])...)
			wantContents(t, build(t, write(t, "parts", parts), Options{}), smallContents)
			wantContents(t, build(t, Stdin, Options{Stdin: bytes.NewReader(data)}), smallContents)
			if how == "tar" {
				return
			}
			for _, cut := range []int{len(data) / 2, len(data) - 3} {
				if _, err := Make(t.Context(), write(t, "cut", data[:cut]), t.TempDir(), Options{}); err == nil {
					t.Errorf("cut after %d of %d bytes: no error", cut, len(data))
				}
			}
		})
	}
}

// A bzip2 of the small tar: no package here writes one.
func TestBzip2Tar(t *testing.T) {
	const packed = "QlpoOTFBWSZTWfK6cgUAAGrbgMmQQAD3gAQmeuOeAATIIAB0GRI0yjI9IzUaMaNT9UGSg009TTTQAAAw1alKqPhQhiaCTK5j44OBeIIWFpJQA9KeTIfio655BIyn6gCb07vAmkZdAtso" +
		"TfGFgVFUnKRz/KKVZg+gpUQq4tHhCzgHBG0YN5IH8XckU4UJDyunIFA="
	data, err := base64.StdEncoding.DecodeString(packed)
	if err != nil {
		t.Fatal(err)
	}
	wantContents(t, build(t, write(t, "root", data), Options{}), smallContents)
}

func TestPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	data := makeTar(t, small...)
	go os.WriteFile(pipe, data, 0)
	wantContents(t, build(t, pipe, Options{}), smallContents)
}

// capability is cap_net_raw=ep as Linux keeps it (include/uapi/linux/capability.h,
// struct vfs_cap_data): it has zero bytes in it.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// everything is a tar with all that must survive.
func everything(t testing.TB) []byte {
	long := strings.Repeat("d/", 100) + strings.Repeat("n", 200)
	sparse := entry{tar.Header{Name: "var/log/lastlog", Typeflag: tar.TypeReg, Mode: 0o664, Size: 64 << 20}, strings.Repeat("\x00", 64<<20)}
	return makeTar(t,
		entry{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 7, Gid: 8, ModTime: time.Unix(1234567890, 0)}, ""},
		entry{tar.Header{Name: "./usr/bin/ping", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 4, Uid: 0, Gid: 0, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": capability,
			"SCHILY.xattr.security.selinux":    "system_u:object_r:ping_exec_t:s0\x00",
			"SCHILY.xattr.user.note":           "hello",
		}}, "ping"},
		entry{tar.Header{Name: "./home/u", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 100000, Gid: 200000}, ""},
		link(tar.TypeLink, "./usr/bin/ping6", "./usr/bin/ping"),
		entry{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		entry{tar.Header{Name: "dev/vda", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 254, Devminor: 0}, ""},
		entry{tar.Header{Name: "run/fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
		file(long, "long"), file("/absolute", "a"), file(".wh.not-a-whiteout", "w"), sparse,
	)
}

// TestNothingIsLost checks that all survives, also as a user without rights.
func TestNothingIsLost(t *testing.T) {
	source := write(t, "root.tar.zst", compress(t, "zst", everything(t)))
	image := build(t, source, Options{Epoch: 42})
	list := listing(t, image)
	for _, want := range []string{
		"drwx--x--x 0/0 ", "2009-02-13 23:31 squashfs-root\n", // the root folder: root's, with its own time
		"-rwsr-xr-x 0/0 ", "squashfs-root/usr/bin/ping6",
		"drwxrwxrwt 100000/200000 ", "crw-rw-rw- 0/0 ", " 1,  3 ", "brw-rw---- 0/6 ", "254,  0 ", "prw------- 0/0 ",
		"squashfs-root/" + strings.Repeat("d/", 100), "squashfs-root/absolute", "squashfs-root/.wh.not-a-whiteout", " 67108864 ",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("unsquashfs -lln has no %q:\n%.400s…", want, list)
		}
	}
	if image.Size > 1<<20 {
		t.Errorf("the image has %d bytes: a sparse file became a full one", image.Size)
	}
	out := filepath.Join(t.TempDir(), "out")
	unpack := exec.Command(oracle.Tool(t, "unsquashfs"), "-n", "-d", out, image.File.Name(), "usr")
	if words, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v\n%s", err, words)
	}
	attributes := map[string]string{"user.note": "hello"}
	if os.Geteuid() == 0 { // only root may set these
		attributes["security.capability"] = capability
	}
	for name, want := range attributes {
		value := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(out, "usr/bin/ping6"), name, value)
		if err != nil || string(value[:n]) != want {
			t.Errorf("%s of the hard link = %q, %v; want %q", name, value[:max(n, 0)], err, want)
		}
	}
	a, _ := os.Stat(filepath.Join(out, "usr/bin/ping"))
	b, _ := os.Stat(filepath.Join(out, "usr/bin/ping6"))
	if !os.SameFile(a, b) {
		t.Error("the hard link is a file of its own")
	}
}

// TestMetadata: what squashfs cannot keep of a tar is said, and gives nobody more
// than before.
func TestMetadata(t *testing.T) {
	// user::rw-, user:0:rw-, group::---, mask::rw-, other::r--
	const acl = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x06\x00\x00\x00\x00\x00\x04\x00\x00\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	for name, tc := range map[string]struct{ key, value, mode, warning string }{
		"ACL":           {"SCHILY.xattr.system.posix_acl_access", acl, "-rw-------", "ACL"},
		"ACL in base64": {"LIBARCHIVE.xattr.system.posix_acl_access", "AgAAAAEABgD/////AgAGAAAAAAAEAAAA/////xAABgD/////IAAEAP////8=", "-rw-------", "ACL"},
		"ACL as text":   {"SCHILY.acl.access", "user::rw-,user:u:---:0,group::r--,mask::rw-,other::r--", "-rw-------", "ACL"},
		"ACL, cut":      {"SCHILY.xattr.system.posix_acl_access", acl[:9], "-rw-------", "ACL"},
		"default ACL":   {"SCHILY.xattr.system.posix_acl_default", acl, "-rw-rw-r--", "posix_acl_default"},
		"flags":         {"SCHILY.fflags", "immutable", "-rw-rw-r--", "SCHILY.fflags"},
		"made up":       {"VENDOR.x", "y", "-rw-rw-r--", "VENDOR.x"},
		"harmless":      {"SCHILY.dev", "5", "-rw-rw-r--", ""},
		"kept":          {"SCHILY.xattr.user.n", "x", "-rw-rw-r--", ""},
		"kept, base64":  {"LIBARCHIVE.xattr.user.n%2d", "eA", "-rw-rw-r--", ""},
		"SELinux":       {"RHT.security.selinux", "a:b", "-rw-rw-r--", ""},
	} {
		image := build(t, write(t, "root.tar", makeTar(t, attributed("a", tc.key, tc.value), attributed("b", tc.key, tc.value))), Options{})
		if list := listing(t, image); !strings.Contains(list, tc.mode+" 0/0 ") {
			t.Errorf("%s: not %s:\n%s", name, tc.mode, list)
		}
		got := strings.Join(image.Warnings, "\n")
		if (tc.warning == "") != (got == "") || !strings.Contains(got, tc.warning) || tc.warning != "" && !strings.Contains(got, "1 more") {
			t.Errorf("%s: warnings %q; want one about %q", name, got, tc.warning)
		}
		if tc.warning == "" && name != "harmless" {
			dump := oracle.Run(t, oracle.Tool(t, "unsquashfs"), "-s", image.File.Name())
			if !strings.Contains(dump, "Number of xattr ids 1") {
				t.Errorf("%s: the attribute is not in the image:\n%s", name, dump)
			}
		}
	}
}

// TestOneNote: one file is no more files.
func TestOneNote(t *testing.T) {
	n := notes{}
	n.add("VENDOR.x", "a")
	if got, want := n.texts()[0], `squashfs cannot keep "VENDOR.x" of "a": it is dropped`; got != want {
		t.Errorf("one note says %q; want %q", got, want)
	}
}

// TestFolderACL: squashfs refuses a folder with an ACL, the others keep it.
func TestFolderACL(t *testing.T) {
	source := aFolder(t)
	acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x06\x00\x05\x00\x00\x00\x04\x00\x00\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(filepath.Join(source, "etc/hostname"), accessACL, acl, 0); err != nil {
		oracle.Missing(t, "the temporary folder keeps no ACL (%v)", err)
	}
	if _, err := Make(t.Context(), source, t.TempDir(), Options{}); !errors.Is(err, ErrACL) {
		t.Errorf("squashfs: %v; want ErrACL", err)
	}
	ext4 := build(t, source, Options{Type: policy.Ext4})
	if got := oracle.Run(t, oracle.Tool(t, "debugfs"), "-R", "ea_list etc/hostname", ext4.File.Name()); !strings.Contains(got, "posix_acl_access") {
		t.Errorf("ext4 has no ACL: %s", got)
	}
	erofs := build(t, source, Options{Type: policy.EROFS})
	if got := oracle.Run(t, oracle.Tool(t, "dump.erofs"), "--path=/etc/hostname", erofs.File.Name()); strings.Contains(got, "Xattr size: 0\n") {
		t.Errorf("erofs has no ACL: %s", got)
	}
}

// TestTimes: a folder that was copied makes the same image, with the times that
// its files have.
func TestTimes(t *testing.T) {
	source := aFolder(t)
	when := time.Unix(1234567890, 0)
	var images []*Image
	show := map[policy.FSType][]string{policy.EROFS: {"dump.erofs", "--path=/etc/hostname"}, policy.Ext4: {"debugfs", "-R", "stat etc/hostname"}, policy.Squashfs: {"unsquashfs", "-lln"}}
	for kind, tool := range show {
		var sums []string
		for range 2 {
			for _, name := range []string{"etc/hostname", "etc/large", "etc/empty", "var/hole", "var", "etc", "."} {
				if err := os.Chtimes(filepath.Join(source, name), time.Now(), when); err != nil { // and the time of change is now
					t.Fatal(err)
				}
			}
			image := build(t, source, Options{Type: kind})
			data, err := os.ReadFile(image.File.Name())
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, fmt.Sprintf("%x", sha256.Sum256(data)))
			images = append(images, image)
			time.Sleep(1100 * time.Millisecond) // ext4's times are in seconds
		}
		if sums[0] != sums[1] {
			t.Errorf("%s: another access, another image", kind)
		}
		if got := oracle.Run(t, oracle.Tool(t, tool[0]), append(tool[1:], images[len(images)-1].File.Name())...); !strings.Contains(got, "2009-02-13 23:31") && !strings.Contains(got, "Fri Feb 13 23:31:30 2009") {
			t.Errorf("%s: the file's time is not kept:\n%s", kind, got)
		}
	}
}

// TestFuture: a file of a time to come makes no difference between runs.
func TestFuture(t *testing.T) {
	later := file("later", "x")
	later.ModTime = time.Unix(4000000000, 0)
	source := write(t, "root.tar", makeTar(t, later))
	var all [][]byte
	for range 2 {
		data, err := os.ReadFile(build(t, source, Options{}).File.Name())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
		time.Sleep(1100 * time.Millisecond)
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("two images of one tar differ")
	}
	if list := listing(t, build(t, source, Options{})); !strings.Contains(list, "2096-10-02") || !strings.Contains(list, "1970-01-01 00:00 squashfs-root\n") {
		t.Errorf("the times are not the tar's, the root folder's not 0:\n%s", list)
	}
}

// TestMemory: one budget for what all layers take, folders that only a name has
// in it too.
func TestMemory(t *testing.T) {
	tr := &tree{root: newFolder(0), kept: maxKept - 150<<10}
	var err error
	for i := 0; i < 3 && err == nil; i++ {
		err = tr.readLayer(t.Context(), i, layerOf(makeTar(t, file(strings.Repeat(fmt.Sprintf("%d/", i), 250)+"f", ""))))
	}
	if !errors.Is(err, errTar) {
		t.Errorf("three layers of 250 folders each in 150 KiB: %v; want errTar", err)
	}
}

// TestAsUser makes the same image as a user without rights, in a process of
// its own.
func TestAsUser(t *testing.T) {
	const variable = "COCOROOT_TEST_AS_USER"
	if folder := os.Getenv(variable); folder != "" {
		image, err := Make(t.Context(), filepath.Join(folder, "root.tar"), folder, Options{})
		if err != nil {
			t.Fatal(err)
		}
		image.Close()
		return
	}
	if os.Geteuid() != 0 {
		return // the other tests ran as a user already
	}
	oracle.Tool(t, mksquashfs)
	folder, err := os.MkdirTemp("", "cocoroot-user-") // t.TempDir's parent is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	const nobody = 65534 // which forbids its programs new namespaces: sealing needs none
	if err := errors.Join(os.Chown(folder, nobody, nobody), os.WriteFile(filepath.Join(folder, "root.tar"), everything(t), 0o644)); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "test")
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestAsUser$")
	cmd.Env = append(os.Environ(), variable+"="+folder)
	cmd.Dir = folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as a user: %v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(folder, "fs"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(build(t, filepath.Join(folder, "root.tar"), Options{}).File.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("a user's image differs from root's")
	}
}

func TestMalformedTars(t *testing.T) {
	bomb := make([]entry, 0, 300)
	for i := range 300 {
		bomb = append(bomb, folder(strings.Repeat("d/", i+1)))
	}
	for name, data := range map[string][]byte{
		"leads out":         makeTar(t, file("../etc/passwd", "x")),
		"leads out later":   makeTar(t, file("a/../../b", "x")),
		"link to nothing":   makeTar(t, link(tar.TypeLink, "a", "b")),
		"link to folder":    makeTar(t, folder("b/"), link(tar.TypeLink, "a", "b")),
		"below a file":      makeTar(t, file("a", ""), file("a/b", "")),
		"in a circle":       makeTar(t, link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("a/c", "")),
		"root is a file":    makeTar(t, file(".", "")),
		"deep":              makeTar(t, bomb...),
		"long name":         makeTar(t, file(strings.Repeat("n", 256), "")),
		"long in a link":    makeTar(t, link(tar.TypeSymlink, "a", strings.Repeat("n", 256)), file("a/b", "")),
		"long target":       makeTar(t, link(tar.TypeSymlink, "a", strings.Repeat("x/", 2048))),
		"no target":         makeTar(t, link(tar.TypeSymlink, "a", "")),
		"large major":       makeTar(t, entry{tar.Header{Name: "a", Typeflag: tar.TypeChar, Devmajor: 4096}, ""}),
		"large minor":       makeTar(t, entry{tar.Header{Name: "a", Typeflag: tar.TypeBlock, Devminor: 1 << 20}, ""}),
		"large owner":       makeTar(t, entry{tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}, ""}),
		"long xattr":        makeTar(t, attributed("a", "SCHILY.xattr.user."+strings.Repeat("n", 251), "x")),
		"large xattr":       makeTar(t, attributed("a", "SCHILY.xattr.user.n", strings.Repeat("x", 65537))),
		"xattr, not base64": makeTar(t, attributed("a", "LIBARCHIVE.xattr.user.n", "*")),
		"unknown type":      makeTar(t, entry{tar.Header{Name: "a", Typeflag: 'Z'}, ""}),
		"cut in a file":     makeTar(t, file("a", strings.Repeat("x", 3000)))[:2048],
		"cut in a header":   append(makeTar(t, file("a", ""))[:512], makeTar(t, file("b", ""))[:100]...),
	} {
		t.Run(name, func(t *testing.T) {
			oracle.Tool(t, mksquashfs)
			_, err := Make(t.Context(), write(t, "root.tar", data), t.TempDir(), Options{})
			if !errors.Is(err, errTar) {
				t.Errorf("Make = %v; want errTar", err)
			}
		})
	}
}

// TestTwiceInTar: what tar would unpack last, stays.
func TestTwiceInTar(t *testing.T) {
	image := build(t, write(t, "root.tar", makeTar(t,
		file("a", "old"), link(tar.TypeLink, "b", "a"), file("a", "new"),
		link(tar.TypeSymlink, "lib", "usr/lib"), file("lib/x", "x"), folder("c/"), file("c/d", ""), file("c", "c"),
	)), Options{})
	wantContents(t, image, map[string]string{
		"a": "new", "b": "old", "lib": "-> usr/lib", "usr": "/", "usr/lib": "/", "usr/lib/x": "x", "c": "c",
	})
}

func TestEmptyTar(t *testing.T) {
	wantContents(t, build(t, write(t, "root.tar", makeTar(t)), Options{}), map[string]string{})
}

func TestRefusedSources(t *testing.T) {
	dir := t.TempDir()
	for name, source := range map[string]string{
		"text": write(t, "text", []byte("hello")), "nothing": write(t, "nothing", nil), "noise": write(t, "noise", bytes.Repeat([]byte("x"), 9000)),
		"device": "/dev/zero", "gzip of text": write(t, "gz", compress(t, "gz", []byte("hello"))),
	} {
		if _, err := Make(t.Context(), source, dir, Options{}); !errors.Is(err, errInput) {
			t.Errorf("%s: %v; want errInput", name, err)
		}
	}
	if _, err := Make(t.Context(), filepath.Join(dir, "absent"), dir, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v; want ErrNotExist", err)
	}
	if _, err := Make(t.Context(), write(t, "tar", makeTar(t, small...)), dir, Options{Type: policy.Ext4}); !errors.Is(err, ErrFormat) {
		t.Errorf("ext4 of a tar: %v; want ErrFormat", err)
	}
}

func TestCanceled(t *testing.T) {
	oracle.Tool(t, mksquashfs)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, source := range []string{t.TempDir(), write(t, "tar", makeTar(t, small...))} {
		if _, err := Make(ctx, source, t.TempDir(), Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v; want Canceled", source, err)
		}
	}
}

// aFolder has files of some sizes, a hard link, a symbolic link and a hole.
func aFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	hole := filepath.Join(dir, "var/hole")
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "etc"), 0o755), os.MkdirAll(filepath.Join(dir, "var"), 0o700),
		os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("guest\n"), 0o640),
		os.WriteFile(filepath.Join(dir, "etc/large"), bytes.Repeat([]byte("0123456789abcdef"), 50000), 0o644),
		os.WriteFile(filepath.Join(dir, "etc/empty"), nil, 0o644),
		os.Link(filepath.Join(dir, "etc/large"), filepath.Join(dir, "etc/link")),
		os.Symlink("hostname", filepath.Join(dir, "etc/name")),
		os.WriteFile(hole, nil, 0o644), os.Truncate(hole, 32<<20),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFolder makes each kind of file system, twice, and has the stock checker
// look at it.
func TestFolder(t *testing.T) {
	checkers := map[policy.FSType][]string{
		policy.Squashfs: {"unsquashfs", "-lls"}, policy.EROFS: {"fsck.erofs"}, policy.Ext4: {"e2fsck", "-f", "-n"},
	}
	for kind, checker := range checkers {
		t.Run(string(kind), func(t *testing.T) {
			for _, tool := range []string{mksquashfs, mkfsErofs, mke2fs, resize2fs} {
				oracle.Tool(t, tool)
			}
			source := aFolder(t)
			first := build(t, source, Options{Type: kind, Epoch: 1700000000})
			if first.Type != kind {
				t.Fatalf("Make made %s", first.Type)
			}
			oracle.Run(t, oracle.Tool(t, checker[0]), append(checker[1:], first.File.Name())...)
			if first.Size > 4<<20 {
				t.Errorf("%d bytes for files with 0.8 MB", first.Size)
			}
			t.Setenv("TZ", "Asia/Tokyo")
			second := build(t, source, Options{Type: kind, Epoch: 1700000000})
			a, errA := os.ReadFile(first.File.Name())
			b, errB := os.ReadFile(second.File.Name())
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Error("two file systems of one folder differ")
			}
			ready := build(t, first.File.Name(), Options{})
			if ready.Type != kind || ready.Size != first.Size {
				t.Errorf("taken as it is: %s with %d bytes; want %s with %d", ready.Type, ready.Size, kind, first.Size)
			}
			if err := ready.Check(); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(first.File.Name(), a[:first.Size-1], 0o600); err != nil {
				t.Fatal(err)
			}
			if err := ready.Check(); !errors.Is(err, ErrChanged) {
				t.Errorf("Check of a shortened file = %v; want ErrChanged", err)
			}
			if _, err := Make(t.Context(), first.File.Name(), t.TempDir(), Options{}); !errors.Is(err, fsimage.ErrCorrupt) {
				t.Errorf("a shortened file = %v; want ErrCorrupt", err)
			}
		})
	}
}

func TestTrailingBytesAreCut(t *testing.T) {
	image := build(t, aFolder(t), Options{})
	data, err := os.ReadFile(image.File.Name())
	if err != nil {
		t.Fatal(err)
	}
	longer := build(t, write(t, "longer", append(data, make([]byte, 1<<20)...)), Options{})
	if longer.Size != image.Size {
		t.Errorf("%d bytes; want the file system's %d", longer.Size, image.Size)
	}
}

// TestLinkToFolder: what the link leads to is meant.
func TestLinkToFolder(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(aFolder(t), link); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []policy.FSType{policy.Squashfs, policy.EROFS, policy.Ext4} {
		if got := contents(t, build(t, link, Options{Type: kind})); got["etc/hostname"] != "guest\n" {
			t.Errorf("%s of a link to a folder has %d entries, and not its files", kind, len(got))
		}
	}
}

// TestSilentPipe: a pipe that nobody writes to does not outlast the context.
func TestSilentPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	defer w.Close()
	for _, source := range []string{pipe, Stdin} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begin := time.Now()
		if _, err := Make(ctx, source, t.TempDir(), Options{Stdin: r}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Second {
			t.Errorf("%s: %v after %v; want DeadlineExceeded within a second", source, err, time.Since(begin))
		}
		cancel()
	}
}

// FuzzTree flattens two layers of any bytes.
func FuzzTree(f *testing.F) {
	for _, seed := range treeSeeds(f) {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		if tree, err := flatten(t, lower, upper); err == nil {
			if err := tree.write(t.Context(), []layer{layerOf(lower), layerOf(upper)}, 0, io.Discard); err != nil && !errors.Is(err, errTar) && !errors.Is(err, tar.ErrHeader) {
				t.Errorf("write = %v; want errTar", err)
			}
		}
	})
}

func treeSeeds(t testing.TB) [][2][]byte {
	layers := threeLayers(t)
	return [][2][]byte{
		{uncompressed(t, layers[0]), uncompressed(t, layers[1])}, {uncompressed(t, layers[0]), layers[2]}, {smallest(t), nil},
	}
}

// smallest is small, and has what everything has.
func smallest(t testing.TB) []byte {
	return makeTar(t, file("a", "x"), link(tar.TypeLink, "b", "a"), link(tar.TypeSymlink, "c", "/d"), file("c/e", ""), file("c/.wh.e", ""))
}

func uncompressed(t testing.TB, data []byte) []byte {
	t.Helper()
	r, err := decompressed(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func layerOf(data []byte) layer {
	return layer{open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

func flatten(t *testing.T, layers ...[]byte) (*tree, error) {
	tr := newTree()
	for i, data := range layers {
		if err := tr.readLayer(t.Context(), i, layerOf(data)); err != nil {
			return nil, err
		}
	}
	return tr, nil
}

func TestFuzzTreeSeeds(t *testing.T) {
	for i, seed := range treeSeeds(t) {
		if tree, err := flatten(t, seed[0], seed[1]); err != nil || len(tree.root.children) == 0 {
			t.Errorf("seed %d: %v, or an empty tree", i, err)
		}
	}
}

func TestRootOwned(t *testing.T) {
	source := aFolder(t)
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(source, "etc/hostname"), 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if list := listing(t, build(t, source, Options{Owned: true})); strings.Contains(list, "1000/") {
		t.Errorf("files of another owner:\n%s", list)
	}
}

func TestFolderChanges(t *testing.T) {
	source := aFolder(t)
	before, err := fingerprint(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	same, err := fingerprint(t.Context(), source)
	if err != nil || same != before {
		t.Fatalf("an unchanged folder: %v, %v; want %v", same, err, before)
	}
	path := filepath.Join(source, "etc/hostname")
	fi, _ := os.Stat(path)
	for name, change := range map[string]func() error{
		"content":  func() error { return os.WriteFile(path, []byte("other\n"), 0) },
		"set back": func() error { return os.Chtimes(path, fi.ModTime(), fi.ModTime()) },
		"mode":     func() error { return os.Chmod(path, 0o600) },
		"new file": func() error { return os.WriteFile(filepath.Join(source, "new"), nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		after, err := fingerprint(t.Context(), source)
		if err != nil || after == before {
			t.Errorf("%s changed: %v, the same fingerprint", name, err)
		}
		before = after
	}
}

// --- OCI ---------------------------------------------------------------------

type descriptor = map[string]any

// addBlob writes a blob of a layout and returns its descriptor.
func addBlob(t testing.TB, dir, kind string, data []byte) descriptor {
	t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755), os.WriteFile(filepath.Join(dir, "blobs/sha256", sum), data, 0o644)); err != nil {
		t.Fatal(err)
	}
	return descriptor{"mediaType": kind, "digest": "sha256:" + sum, "size": len(data)}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// addImage writes an image and returns its manifest's descriptor.
func addImage(t testing.TB, dir string, layers ...[]byte) descriptor {
	t.Helper()
	config := addBlob(t, dir, "application/vnd.oci.image.config.v1+json", marshal(t, descriptor{
		"os": "linux", "architecture": "amd64", "config": descriptor{"Entrypoint": []string{"/app"}, "Cmd": []string{"serve"}},
	}))
	var all []descriptor
	for _, l := range layers {
		all = append(all, addBlob(t, dir, "application/vnd.oci.image.layer.v1.tar+gzip", l))
	}
	return addBlob(t, dir, "application/vnd.oci.image.manifest.v1+json", marshal(t, descriptor{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": all,
	}))
}

func writeIndex(t testing.TB, dir string, manifests ...descriptor) {
	t.Helper()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(filepath.Join(dir, "index.json"), marshal(t, descriptor{"schemaVersion": 2, "manifests": manifests}), 0o644),
	); err != nil {
		t.Fatal(err)
	}
}

// threeLayers is an image with all that layers can do to one another.
func threeLayers(t testing.TB) [][]byte {
	return [][]byte{
		compress(t, "gz", makeTar(t,
			folder("etc/"), file("etc/old", "1"), file("etc/gone", "1"), folder("opaque/"), file("opaque/below", "1"),
			folder("opaque/sub/"), file("opaque/sub/x", "1"), file("data", "original"), link(tar.TypeLink, "data2", "data"),
			file("was-file", "1"), folder("was-folder/"), file("was-folder/x", "1"), file("linked-later", "L"),
			link(tar.TypeSymlink, "lib", "usr/lib"), folder("usr/lib/"), link(tar.TypeSymlink, "up", "../../outside"), file("keep", "k"),
		)),
		compress(t, "zst", makeTar(t,
			file("etc/.wh.gone", ""), file("etc/old", "2"), file("opaque/above", "2"), file("opaque/.wh..wh..opq", ""),
			file("data", "changed"), folder("was-file/"), file("was-file/x", "2"), file("was-folder", "2"),
			link(tar.TypeLink, "other-name", "linked-later"), file("lib/y", "2"), file("etc/again", "2"), file(".wh.not-there", ""),
		)),
		makeTar(t,
			file(".wh.linked-later", ""), file("etc/.wh.again", ""), file("etc/again", "3"),
			entry{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 5}, ""},
		),
	}
}

var threeContents = map[string]string{
	"etc": "/", "etc/old": "2", "etc/again": "3", "opaque": "/", "opaque/above": "2", "data": "changed", "data2": "original",
	"was-file": "/", "was-file/x": "2", "was-folder": "2", "other-name": "L", "lib": "-> usr/lib", "usr": "/", "usr/lib": "/",
	"usr/lib/y": "2", "up": "-> ../../outside", "keep": "k",
}

func TestOCILayout(t *testing.T) {
	dir := t.TempDir()
	writeIndex(t, dir, addImage(t, dir, threeLayers(t)...))
	image := build(t, dir, Options{Look: func(root *fsimage.Node, _ policy.FSType) error {
		wantAll(t, treeContents(t, root), threeContents)
		return nil
	}})
	wantContents(t, image, threeContents)
	if list := listing(t, image); !strings.Contains(list, "drwx------ 5/0 ") {
		t.Errorf("etc does not have the mode of the last layer:\n%s", list)
	}
	archive := oracle.Run(t, "tar", "-C", dir, "-c", ".")
	wantContents(t, build(t, write(t, "oci.tar", []byte(archive)), Options{}), threeContents)
	wantContents(t, build(t, Stdin, Options{Stdin: bytes.NewReader(compress(t, "gz", []byte(archive)))}), threeContents)
}

// What goes over an image's layers is seen by who looks, and is in the file system;
// a whiteout's name is none there.
func TestContainer(t *testing.T) {
	dir := t.TempDir()
	writeIndex(t, dir, addImage(t, dir, threeLayers(t)...))
	after := maps.Clone(threeContents)
	after["etc/old"], after["usr/lib/.wh.y"], after["new"], after["new/x"] = "4", "", "/", "4"
	o := Options{
		Container: func(root *fsimage.Node, config v1.ImageConfig) ([]byte, error) {
			wantAll(t, treeContents(t, root), threeContents)
			if got, want := append(config.Entrypoint, config.Cmd...), []string{"/app", "serve"}; !slices.Equal(got, want) {
				t.Errorf("the program is %q; want %q", got, want)
			}
			return makeTar(t, file("etc/old", "4"), file("lib/.wh.y", ""), folder("new/"), file("new/x", "4")), nil
		},
		Look: func(root *fsimage.Node, _ policy.FSType) error {
			wantAll(t, treeContents(t, root), after)
			return nil
		},
	}
	wantContents(t, build(t, dir, o), after)
	wantContents(t, build(t, dir, Options{Container: func(*fsimage.Node, v1.ImageConfig) ([]byte, error) { return nil, nil }}), threeContents)
	refused := errors.New("refused")
	o.Container = func(*fsimage.Node, v1.ImageConfig) ([]byte, error) { return nil, refused }
	if _, err := Make(t.Context(), dir, t.TempDir(), o); !errors.Is(err, refused) {
		t.Errorf("Make = %v; want what Container returned", err)
	}
	o.Container = func(*fsimage.Node, v1.ImageConfig) ([]byte, error) {
		t.Error("a tar without a configuration is a container")
		return nil, nil
	}
	o.Look = nil
	build(t, write(t, "root.tar", makeTar(t, file("x", ""))), o)
}

// Whatever an image has where the first process goes, the first process is there.
func TestContainerInTheWay(t *testing.T) {
	over := makeTar(t, folder("cocoroot/"), file("cocoroot/run", "ours"), file("cocoroot/run.json", "ours"))
	for name, layer := range map[string][]entry{
		"a link":           {folder("etc/"), file("etc/run", "theirs"), link(tar.TypeSymlink, "cocoroot", "etc")},
		"a link to itself": {link(tar.TypeSymlink, "cocoroot", "cocoroot")},
		"a link outside":   {link(tar.TypeSymlink, "cocoroot", "../../tmp")},
		"a file":           {file("cocoroot", "theirs")},
		"links inside":     {file("evil", "theirs"), folder("cocoroot/"), link(tar.TypeSymlink, "cocoroot/run", "/evil"), link(tar.TypeLink, "cocoroot/run.json", "evil")},
		"folders inside":   {folder("cocoroot/run/"), file("cocoroot/run/x", "theirs"), folder("cocoroot/run.json/")},
		"a file before it": {file("cocoroot/run", "theirs"), file("cocoroot/.wh.run.json", "")},
	} {
		dir := t.TempDir()
		writeIndex(t, dir, addImage(t, dir, makeTar(t, layer...)))
		got := contents(t, build(t, dir, Options{Container: func(*fsimage.Node, v1.ImageConfig) ([]byte, error) { return over, nil }}))
		if got["cocoroot"] != "/" || got["cocoroot/run"] != "ours" || got["cocoroot/run.json"] != "ours" || got["evil"] == "ours" || got["etc/run"] == "ours" {
			t.Errorf("%s: the image has %q", name, got)
		}
	}
}

// A few kilobytes that say a great deal are refused at once.
func TestOCIBombs(t *testing.T) {
	const index = "application/vnd.oci.image.index.v1+json"
	many := func(n int, d descriptor) (all []descriptor) {
		for range n {
			all = append(all, d)
		}
		return all
	}
	indexes, layers := t.TempDir(), t.TempDir()
	inside := addBlob(t, indexes, index, marshal(t, descriptor{"manifests": []descriptor{}}))
	for range maxNests - 1 { // 300 times 300 times 300 times 300
		inside = addBlob(t, indexes, index, marshal(t, descriptor{"manifests": many(300, inside)}))
	}
	writeIndex(t, indexes, many(300, inside)...)
	layer := addBlob(t, layers, "application/vnd.oci.image.layer.v1.tar+gzip", compress(t, "gz", make([]byte, 8<<20)))
	config := addBlob(t, layers, "application/vnd.oci.image.config.v1+json", []byte("{}"))
	writeIndex(t, layers, addBlob(t, layers, "application/vnd.oci.image.manifest.v1+json", marshal(t, descriptor{"config": config, "layers": many(20000, layer)})))
	for _, dir := range []string{indexes, layers} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := Make(ctx, dir, t.TempDir(), Options{}); !errors.Is(err, ErrOCI) || ctx.Err() != nil {
			t.Errorf("Make = %v, %v; want ErrOCI at once", err, ctx.Err())
		}
	}
}

func TestOCIChoice(t *testing.T) {
	dir := t.TempDir()
	tagged := func(d descriptor, tag string) descriptor {
		d["annotations"] = map[string]string{"org.opencontainers.image.ref.name": tag}
		return d
	}
	platform := func(d descriptor, arch string) descriptor {
		d["platform"] = map[string]string{"os": "linux", "architecture": arch}
		return d
	}
	one, two := addImage(t, dir, makeTar(t, file("one", ""))), addImage(t, dir, makeTar(t, file("two", "")))
	nested := addBlob(t, dir, "application/vnd.oci.image.index.v1+json", marshal(t, descriptor{"schemaVersion": 2, "manifests": []descriptor{
		platform(addImage(t, dir, makeTar(t, file("arm", ""))), "arm64"), platform(addImage(t, dir, makeTar(t, file("three", ""))), "amd64"),
	}}))
	writeIndex(t, dir, tagged(one, "v1"), tagged(two, "v2"), tagged(nested, "v3"))
	_, err := Make(t.Context(), dir, t.TempDir(), Options{})
	if !errors.Is(err, ErrOCI) || !strings.Contains(err.Error(), `"v1", "v2", "v3"`) {
		t.Errorf("without a choice: %v; want ErrOCI that names the tags", err)
	}
	if _, err := Make(t.Context(), dir, t.TempDir(), Options{Image: "v4"}); !errors.Is(err, ErrOCI) {
		t.Errorf("absent tag: %v; want ErrOCI", err)
	}
	for which, want := range map[string]string{"v1": "one", "v2": "two", "v3": "three", two["digest"].(string): "two"} {
		wantContents(t, build(t, dir, Options{Image: which}), map[string]string{want: ""})
	}
}

func TestOCIDigests(t *testing.T) {
	for _, kind := range []string{"layer", "config", "manifest"} {
		for _, how := range []string{"changed", "longer", "shorter", "absent", "trailing"} {
			dir := t.TempDir()
			layer := compress(t, "gz", makeTar(t, small...))
			manifest := addImage(t, dir, layer)
			writeIndex(t, dir, manifest)
			path := map[string]string{
				"layer":    fmt.Sprintf("%x", sha256.Sum256(layer)),
				"manifest": strings.TrimPrefix(manifest["digest"].(string), "sha256:"),
			}[kind]
			if kind == "config" {
				var m struct{ Config struct{ Digest string } }
				text, _ := os.ReadFile(filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(manifest["digest"].(string), "sha256:")))
				json.Unmarshal(text, &m)
				path = strings.TrimPrefix(m.Config.Digest, "sha256:")
			}
			path = filepath.Join(dir, "blobs/sha256", path)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			switch how {
			case "changed":
				data[len(data)/2] ^= 1
			case "longer":
				data = append(data, data...)
			case "shorter":
				data = data[:len(data)-1]
			case "trailing":
				data = append(data, ' ')
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if how != "absent" {
				if err := os.WriteFile(path, data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Make(t.Context(), dir, t.TempDir(), Options{}); err == nil {
				t.Errorf("%s %s: no error", kind, how)
			}
		}
	}
}
