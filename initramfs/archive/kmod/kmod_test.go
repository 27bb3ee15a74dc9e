package kmod

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// names returns the names of the modules that a guest of a kernel loads, those that
// may find nothing with a dash, and what it lacks.
func names(t *testing.T, dir string, g Guest) (names, lacks []string, err error) {
	t.Helper()
	oracle.Tool(t, "modprobe")
	c, err := Choose(dir, "", g)
	for _, m := range c.Modules {
		name := nameOf(m.Path)
		if m.Optional {
			name = "-" + name
		}
		names = append(names, name)
		if !bytes.HasPrefix(m.Data, []byte("\x7fELF")) {
			t.Errorf("%s is no ELF file", m.Path)
		}
	}
	for _, l := range c.Lacks {
		lacks = append(lacks, l.Name)
	}
	return names, lacks, err
}

// checkOrder checks that no module is loaded before what it needs, or twice.
func checkOrder(t *testing.T, dir string, names []string) {
	t.Helper()
	indexes, err := filepath.Glob(filepath.Join(dir, "lib/modules/*/modules.dep"))
	if err != nil || len(indexes) != 1 {
		t.Fatalf("the indexes in %s: %v, %v; want one", dir, indexes, err)
	}
	text, err := os.ReadFile(indexes[0])
	if err != nil {
		t.Fatal(err)
	}
	needs := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		for _, dep := range f[1:] {
			needs[nameOf(f[0])] = append(needs[nameOf(f[0])], nameOf(dep))
		}
	}
	seen := make(map[string]bool)
	for _, name := range names {
		name = strings.TrimPrefix(name, "-")
		if seen[name] {
			t.Errorf("%s is loaded twice", name)
		}
		for _, dep := range needs[name] {
			if !seen[dep] {
				t.Errorf("%s is loaded before %s, which it needs", name, dep)
			}
		}
		seen[name] = true
	}
}

// A kernel with everything in modules has all of them loaded, and in which order.
func TestChoose(t *testing.T) {
	const all = "efi_secret virtio_pci virtio_blk virtio_scsi sd_mod nvme sha256_generic -sha256_ssse3 -aesni_intel aes_generic xts cbc " +
		"dm_mod dm_verity encrypted_keys dm_crypt squashfs erofs -crc32c_intel crc32c_generic ext4 overlay"
	dir := oracle.Fixture(t, "modular")
	for name, tc := range map[string]struct {
		guest Guest
		want  string // after those that every guest has
		not   string
	}{
		"injected":         {Guest{}, "", "hmac btrfs loop sev_guest -sev_guest virtio_console virtio_net"},
		"disks":            {Guest{Writes: true}, "hmac authenc loop dm_integrity btrfs", "-sev_guest"},
		"serial":           {Guest{Channel: policy.Serial}, "configfs tsm -sev_guest", "virtio_console virtio_net"},
		"virtio":           {Guest{Channel: policy.Virtio}, "configfs tsm -sev_guest virtio_console", "virtio_net"},
		"tcp":              {Guest{Channel: policy.TCP}, "configfs tsm -sev_guest net_failover virtio_net", "virtio_console"},
		"disks and serial": {Guest{Channel: policy.Serial, Writes: true}, "btrfs configfs tsm -sev_guest", ""},
	} {
		got, lacks, err := names(t, dir, tc.guest)
		if err != nil || len(lacks) > 0 {
			t.Errorf("%s: Choose = %v, lacks %v", name, err, lacks)
			continue
		}
		checkOrder(t, dir, got)
		if got[0] != EFISecret {
			t.Errorf("%s: load order = %v; want efi_secret first", name, got)
		}
		at := 0
		for _, want := range strings.Fields(all + " " + tc.want) {
			i := slices.Index(got, want)
			if i < 0 {
				t.Errorf("%s: load order = %v; want %s in it", name, got, want)
			}
			if want == "dm_crypt" && i < at || want == "-sev_guest" && i < at {
				t.Errorf("%s: load order = %v; want %s later", name, got, want)
			}
			at = max(at, i)
		}
		for _, not := range strings.Fields(tc.not) {
			if slices.Contains(got, not) {
				t.Errorf("%s: load order = %v; want %s absent", name, got, not)
			}
		}
	}
}

// What a distribution builds in is not missed, and what it lacks is said.
func TestDistributions(t *testing.T) {
	for _, kernel := range []string{"debian-kernel", "debian13-kernel"} {
		dir := oracle.Fixture(t, kernel)
		got, lacks, err := names(t, dir, Guest{Writes: true})
		if err != nil || !slices.Equal(lacks, []string{EFISecret}) {
			t.Errorf("%s: Choose = %v, lacks %v; want only efi_secret", kernel, err, lacks)
		}
		checkOrder(t, dir, got)
		for _, want := range []string{"virtio_blk", "-aesni_intel", "xts", "dm_verity", "dm_crypt", "btrfs"} {
			if !slices.Contains(got, want) {
				t.Errorf("%s: load order = %v; want %s in it", kernel, got, want)
			}
		}
	}
}

func TestChooseRefuses(t *testing.T) {
	depmod := oracle.Tool(t, "depmod")
	remove := func(file string) func(string) error {
		return func(tree string) error { return os.Remove(filepath.Join(tree, file)) }
	}
	write := func(file, text string) func(string) error {
		return func(tree string) error { return os.WriteFile(filepath.Join(tree, file), []byte(text), 0o644) }
	}
	// A device of the host's that offers a cipher, in place of the kernel's own.
	device := func(tree string) error {
		dir := filepath.Join(tree, "kernel/drivers/crypto")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.Rename(filepath.Join(tree, "kernel/crypto/xts.ko"), filepath.Join(dir, "host_xts.ko"))
	}
	for name, tc := range map[string]struct {
		before, after func(tree string) error // depmod
		guest         Guest
		want          error
	}{
		"as it is":         {},
		"no index":         {after: remove("modules.dep.bin"), want: ErrNoIndex},
		"no dm-crypt":      {before: remove("kernel/drivers/md/dm-crypt.ko"), want: ErrMissing},
		"no btrfs":         {before: remove("kernel/fs/btrfs/btrfs.ko"), guest: Guest{Writes: true}, want: ErrMissing},
		"no sev-guest":     {before: remove("kernel/drivers/virt/coco/sev-guest/sev-guest.ko"), guest: Guest{Channel: policy.Serial}, want: ErrMissing},
		"no virtio":        {before: remove("kernel/drivers/char/virtio_console.ko"), guest: Guest{Channel: policy.Virtio}, want: ErrMissing},
		"no vsock":         {guest: Guest{Channel: policy.Vsock}, want: ErrMissing},
		"host's xts only":  {before: device, want: ErrMissing},
		"host's xts more":  {before: device, after: write("modules.builtin.modinfo", "xts.license=GPL\x00xts.alias=crypto-xts\x00")},
		"file absent":      {after: remove("kernel/fs/squashfs/squashfs.ko"), want: fs.ErrNotExist},
		"not ELF":          {after: write("kernel/fs/squashfs/squashfs.ko", "#!/bin/sh"), want: ErrFile},
		"no index in it":   {after: write("modules.dep.bin", "hello"), want: ErrMissing},
		"a name of no one": {after: write("modules.alias.bin", ""), want: ErrMissing},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(oracle.Fixture(t, "modular"))); err != nil {
				t.Fatal(err)
			}
			trees, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
			if err != nil || len(trees) != 1 {
				t.Fatalf("%v, %v; want one tree", trees, err)
			}
			if tc.before != nil {
				if err := tc.before(trees[0]); err != nil {
					t.Fatal(err)
				}
			}
			oracle.Run(t, depmod, "-b", dir, filepath.Base(trees[0]))
			if tc.after != nil {
				if err := tc.after(trees[0]); err != nil {
					t.Fatal(err)
				}
			}
			got, _, err := names(t, dir, tc.guest)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("Choose error = %v; want %v", err, tc.want)
			}
			if slices.Contains(got, "host_xts") {
				t.Errorf("load order = %v; want nothing of the host's", got)
			}
		})
	}
}

// Without efi_secret, a guest that asks its owner lacks nothing.
func TestLacks(t *testing.T) {
	dir := oracle.Fixture(t, "debian13-kernel")
	if got, lacks, err := names(t, dir, Guest{Channel: policy.TCP}); err != nil || len(lacks) > 0 || !slices.Contains(got, "-sev_guest") {
		t.Errorf("Choose = %v, lacks %v, %v; want -sev_guest, and nothing lacking", got, lacks, err)
	}
}

// Every layout is found, the only version is taken, several are listed.
func TestPlaces(t *testing.T) {
	dir := func(paths ...string) string {
		d := t.TempDir()
		for _, p := range paths {
			if err := os.MkdirAll(filepath.Join(d, p), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	link := dir("usr/lib/modules/6.12")
	if err := os.Symlink("usr/lib", filepath.Join(link, "lib")); err != nil {
		t.Fatal(err)
	}
	absolute := dir("usr/lib/modules/6.12")
	if err := os.Symlink("/usr/lib", filepath.Join(absolute, "lib")); err != nil {
		t.Fatal(err)
	}
	// What is found has no index.
	for name, tc := range map[string]struct {
		dir, version string
		want         string
		err          error
	}{
		"lib":                          {dir("lib/modules/6.12"), "6.12", "kernel 6.12", ErrNoIndex},
		"usr/lib":                      {dir("usr/lib/modules/6.12"), "6.12", "kernel 6.12", ErrNoIndex},
		"link":                         {link, "", "kernel 6.12", ErrNoIndex},
		"link out of it":               {absolute, "", "kernel 6.12", ErrNoIndex},
		"only one":                     {dir("lib/modules/6.12"), "", "kernel 6.12", ErrNoIndex},
		"none":                         {dir(), "", "there is no folder lib/modules/VERSION or usr/lib/modules/VERSION", ErrVersion},
		"several":                      {dir("lib/modules/6.12", "usr/lib/modules/6.1"), "", "6.1, 6.12", ErrVersion},
		"one of several":               {dir("lib/modules/6.12", "usr/lib/modules/6.1"), "6.1", "kernel 6.1", ErrNoIndex},
		"other":                        {dir("lib/modules/6.12"), "6.13", "6.12", ErrVersion},
		"no folder":                    {filepath.Join(t.TempDir(), "absent"), "", "absent", fs.ErrNotExist},
		"a version with a way up":      {dir("lib/modules/6.12"), "../modules/6.12", "6.12", ErrVersion},
		"a version that is not a name": {dir("lib/modules/6.12"), ".", "6.12", ErrVersion},
	} {
		if _, err := Choose(tc.dir, tc.version, Guest{}); !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Choose error = %v; want %v, and it to say %q", name, err, tc.err, tc.want)
		}
	}
	// In usr, where there is no lib.
	usr := t.TempDir()
	if err := os.CopyFS(filepath.Join(usr, "usr"), os.DirFS(oracle.Fixture(t, "modular"))); err != nil {
		t.Fatal(err)
	}
	if got, _, err := names(t, usr, Guest{}); err != nil || !slices.Contains(got, "dm_crypt") {
		t.Errorf("usr/lib/modules: Choose = %v, %v", got, err)
	}
}

// The kernel that runs, --modules /, is found as another. (This machine may have none,
// so modprobe is one that says what it is asked.)
func TestRoot(t *testing.T) {
	bin := t.TempDir()
	const script = "#!/bin/sh\n# --quiet -C /dev/null -d ABOVE -S VERSION QUESTION NAME\n[ $8 = --show-depends ] || exec echo $9\necho insmod \"$5/lib/modules/$7/kernel/$9.ko\" limit=1\n"
	if err := os.WriteFile(filepath.Join(bin, "modprobe"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, dir := range []string{"/", "/some where"} {
		for _, usr := range []string{"", "usr/"} {
			tree, err := find(fstest.MapFS{usr + "lib/modules/6.12/modules.dep.bin": {}}, dir, "")
			if err != nil {
				t.Fatal(err)
			}
			if got, ok, err := tree.resolve("a"); !slices.Equal(got, []string{"kernel/a.ko"}) || !ok || err != nil {
				t.Errorf("%s, %s: resolve = %q, %t, %v; want kernel/a.ko", dir, usr, got, ok, err)
			}
		}
	}
}

// What the programs that kernels are built with compress is read back.
func TestCompressed(t *testing.T) {
	want := append([]byte("\x7fELF"), bytes.Repeat([]byte("module "), 40_000)...)
	dir := t.TempDir()
	for ext, args := range map[string][]string{ // linux/scripts/Makefile.modinst
		".gz":  {"gzip", "-n"},
		".xz":  {"xz", "--check=crc32", "--lzma2=dict=1MiB"},
		".zst": {"zstd", "-T0", "--rm", "-q"},
	} {
		file := filepath.Join(dir, "m.ko")
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, oracle.Tool(t, args[0]), append(args[1:], "-f", file)...)
		got, err := readModule(os.DirFS(dir), "m.ko"+ext)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("readModule(m.ko%s) = %d bytes, %v; want %d", ext, len(got), err, len(want))
		}
		packed, err := os.ReadFile(file + ext)
		if err != nil {
			t.Fatal(err)
		}
		cut := fstest.MapFS{"m.ko" + ext: {Data: packed[:len(packed)-8]}}
		if _, err := readModule(cut, "m.ko"+ext); !errors.Is(err, ErrFile) {
			t.Errorf("m.ko%s without its end: error = %v; want ErrFile", ext, err)
		}
		bomb := append([]byte("\x7fELF"), make([]byte, maxModule)...)
		if err := os.WriteFile(file, bomb, 0o644); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, oracle.Tool(t, args[0]), append(args[1:], "-f", file)...)
		if _, err := readModule(os.DirFS(dir), "m.ko"+ext); !errors.Is(err, ErrFile) {
			t.Errorf("m.ko%s of too many bytes: error = %v; want ErrFile", ext, err)
		}
	}
	if _, err := readModule(fstest.MapFS{"m.ko.lz4": {}}, "m.ko.lz4"); !errors.Is(err, ErrFile) {
		t.Errorf("m.ko.lz4: error = %v; want ErrFile", err)
	}
}
