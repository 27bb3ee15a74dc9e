package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
)

// modular returns a guest whose kernel has all that init needs in modules.
func modular(t *testing.T) *guest {
	t.Helper()
	g := standardImage(t).boots(t)
	dir := oracle.Fixture(t, "modular")
	g.kernel = filepath.Join(dir, "bzImage")
	g.initrd, _ = withModules(t, dir)
	return g
}

// loaded returns what the kernel lists in /proc/modules, which the image's
// program has printed.
func (e ended) loaded() []string {
	var names []string
	for line := range strings.Lines(e.console) {
		if _, list, ok := strings.Cut(line, "boot-test: modules "); ok {
			names = strings.Fields(list)
		}
	}
	return names
}

// The modules come as a distribution has them: compressed in two ways, and
// some not at all.
func TestModularKernelPacked(t *testing.T) {
	t.Parallel()
	g := modular(t)
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "usr"), os.DirFS(oracle.Fixture(t, "modular"))); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "usr/lib/modules/*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("versions = %v, %v; want one", found, err)
	}
	pack(t, found[0])
	plain := g.initrd
	g.initrd, _ = withModules(t, dir)
	if !bytes.Equal(read(t, plain), read(t, g.initrd)) {
		t.Error("the archive differs from that of the same modules uncompressed")
	}
	e := g.runs(t)
	g.wiped(t, e)
	names := e.loaded()
	for _, want := range []string{
		"efi_secret", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "dm_mod", "dm_verity", "dm_crypt",
		"xts", "ecb", "aes_generic", "aesni_intel", "sha256_generic", "sha256_ssse3", "squashfs", "erofs", "ext4", "overlay",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not loaded: %v", want, names)
		}
	}
}

// A CPU without the instructions that some modules are for boots all the same.
func TestModularKernelOnLesserCPU(t *testing.T) {
	t.Parallel()
	g := modular(t)
	g.extra = append(g.extra, "-cpu", "EPYC-Milan,-aes,-ssse3,-sha-ni,-avx,-avx2,-sse4.2")
	e := g.runs(t)
	g.wiped(t, e)
	names := e.loaded()
	if !slices.Contains(names, "aes_generic") || slices.Contains(names, "aesni_intel") {
		t.Errorf("loaded modules = %v; want aes_generic without aesni_intel", names)
	}
}

// pack compresses two thirds of a tree's modules, as kernel builds do
// (linux/scripts/Makefile.modinst), and has depmod name them so. (Debian's depmod
// reads no gzip; kmod's own tests have that.)
func pack(t *testing.T, tree string) {
	t.Helper()
	packers := [][]string{{"xz", "--check=crc32", "--lzma2=dict=1MiB"}, {"zstd", "-q", "--rm"}, nil}
	n := 0
	for line := range strings.Lines(string(read(t, filepath.Join(tree, "modules.dep")))) {
		file, _, _ := strings.Cut(line, ":")
		if p := packers[n%len(packers)]; p != nil {
			oracle.Run(t, oracle.Tool(t, p[0]), append(p[1:], filepath.Join(tree, file))...)
		}
		n++
	}
	if n < 20 {
		t.Fatalf("the tree has %d modules; want more", n)
	}
	oracle.Run(t, oracle.Tool(t, "depmod"), "-b", filepath.Join(tree, "../../.."), filepath.Base(tree))
}
