package kmod

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// kernel is the tree of a kernel with everything in modules, as a distribution
// has it: crypto_algapi wishing for cryptomgr, which needs it, two that wish for
// each other, a device of the host's that offers aes, and a module that wishes
// for one after it.
func kernel() fstest.MapFS {
	files := map[string]string{
		"modules.dep": `kernel/drivers/virt/coco/efi_secret/efi-secret.ko: kernel/lib/table.ko
kernel/lib/table.ko:
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/scsi/virtio_scsi.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/scsi/sd_mod.ko:
kernel/drivers/scsi/sr_mod.ko:
kernel/drivers/nvme/host/nvme.ko: kernel/crypto/crypto_algapi.ko
kernel/crypto/crypto_algapi.ko:
kernel/crypto/cryptomgr.ko: kernel/crypto/crypto_algapi.ko
kernel/crypto/sha256_generic.ko: kernel/crypto/crypto_algapi.ko
kernel/arch/x86/crypto/sha256-ssse3.ko:
kernel/crypto/aes_generic.ko: kernel/crypto/crypto_algapi.ko
kernel/arch/x86/crypto/aesni-intel.ko:
kernel/drivers/crypto/virtio/virtio_crypto.ko: kernel/drivers/virtio/virtio.ko
kernel/crypto/xts.ko: kernel/crypto/crypto_algapi.ko
kernel/crypto/ecb.ko: kernel/crypto/crypto_algapi.ko
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-bufio.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-crypt.ko: kernel/drivers/md/dm-mod.ko
kernel/fs/squashfs/squashfs.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/fs/after.ko:
kernel/drivers/net/other.ko:
`,
		"modules.alias": `# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias crypto-sha256 sha256_ssse3
alias crypto-sha256 sha256_generic
alias crypto-aes virtio_crypto
alias crypto-aes aesni_intel
alias crypto-aes aes_generic
alias crypto-xts xts
alias crypto-ecb ecb
alias fs-squashfs squashfs
alias fs-overlay overlay
alias crypto-hmac hmac
alias crypto-authenc authenc
alias fs-btrfs btrfs
`,
		"modules.softdep": `# Soft dependencies extracted from modules themselves.
softdep crypto_algapi pre: cryptomgr
softdep sd_mod pre: sr_mod
softdep sr_mod pre: sd_mod
softdep xts pre: crypto-ecb absent
softdep overlay post: after
softdep cifs gcm
`,
		"modules.builtin":         "kernel/fs/ext4/ext4.ko\n",
		"modules.builtin.modinfo": "ext4.license=GPL\x00ext4.alias=fs-ext4\x00ext4.description=two\nlines\x00",
	}
	tree := make(fstest.MapFS)
	for name, text := range files {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	for line := range strings.Lines(files["modules.dep"]) {
		file, _, _ := strings.Cut(line, ":")
		tree[file] = &fstest.MapFile{Data: []byte("\x7fELF" + file)}
	}
	return tree
}

// edit replaces text in a file of a tree.
func edit(tree fstest.MapFS, name, from, to string) fstest.MapFS {
	text := string(tree[name].Data)
	if !strings.Contains(text, from) {
		panic(name + " has no " + from)
	}
	tree[name] = &fstest.MapFile{Data: []byte(strings.Replace(text, from, to, 1))}
	return tree
}

func TestChoose(t *testing.T) {
	c, err := choose(kernel(), "6.12", Guest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range c.Modules {
		name := nameOf(m.Path)
		if m.Optional {
			name = "-" + name
		}
		got = append(got, name)
		if want := "\x7fELF" + strings.TrimPrefix(m.Path, "/lib/modules/6.12/"); string(m.Data) != want {
			t.Errorf("%s has the data of %q", m.Path, m.Data)
		}
	}
	want := "table efi_secret virtio virtio_ring virtio_pci virtio_blk virtio_scsi sr_mod sd_mod crypto_algapi nvme " +
		"cryptomgr sha256_generic -sha256_ssse3 aes_generic -aesni_intel ecb xts " +
		"dm_mod dm_bufio dm_verity dm_crypt squashfs overlay after"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("load order = %s\nwant         %s", s, want)
	}
	if len(c.Lacks) != 1 || c.Lacks[0].Name != "fs-erofs" {
		t.Errorf("lacks = %v; want only fs-erofs", c.Lacks)
	}
}

// The archive of a guest that asks its owner has what it asks with, after all else,
// and efi_secret where there is one.
func TestChooseForChannel(t *testing.T) {
	const serial = "kernel/fs/configfs/configfs.ko:\n" +
		"kernel/drivers/virt/coco/tsm.ko: kernel/fs/configfs/configfs.ko\n" +
		"kernel/drivers/virt/coco/sev-guest/sev-guest.ko: kernel/drivers/virt/coco/tsm.ko kernel/fs/configfs/configfs.ko\n"
	const virtio = "kernel/drivers/char/virtio_console.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n"
	const network = "kernel/drivers/net/net_failover.ko:\nkernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko\n"
	const vsock = "kernel/net/vmw_vsock/vsock.ko:\nkernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/vsock.ko\n"
	const efiSecret = "kernel/drivers/virt/coco/efi_secret/efi-secret.ko: kernel/lib/table.ko\n"
	const disks = "kernel/crypto/hmac.ko: kernel/crypto/crypto_algapi.ko\nkernel/crypto/authenc.ko:\n" +
		"kernel/security/keys/encrypted-keys/encrypted-keys.ko:\nkernel/drivers/block/loop.ko:\n" +
		"kernel/drivers/md/dm-integrity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko\n" +
		"kernel/crypto/xor.ko:\nkernel/fs/btrfs/btrfs.ko: kernel/crypto/xor.ko\n"
	with := func(more ...string) fstest.MapFS {
		tree := kernel()
		for line := range strings.Lines(strings.Join(more, "")) {
			edit(tree, "modules.dep", "kernel/drivers/net/other.ko:\n", line+"kernel/drivers/net/other.ko:\n")
			file, _, _ := strings.Cut(line, ":")
			tree[file] = &fstest.MapFile{Data: []byte("\x7fELF")}
		}
		return tree
	}
	for name, tc := range map[string]struct {
		tree    fstest.MapFS
		channel policy.ChannelKind
		writes  bool
		want    string // the modules after those that every guest has
		lacks   string // beside fs-erofs
		err     error
	}{
		"none":               {tree: with(serial, virtio, network, vsock, disks)},
		"disks":              {tree: with(serial, disks), writes: true, want: "hmac authenc encrypted_keys loop dm_integrity xor btrfs"},
		"disks and serial":   {tree: with(serial, disks), writes: true, channel: policy.Serial, want: "hmac authenc encrypted_keys loop dm_integrity xor btrfs configfs tsm -sev_guest"},
		"no btrfs":           {tree: edit(with(disks), "modules.alias", "alias fs-btrfs btrfs\n", ""), writes: true, err: ErrMissing},
		"serial":             {tree: with(serial, virtio, network, vsock), channel: policy.Serial, want: "configfs tsm -sev_guest"},
		"virtio":             {tree: with(serial, virtio), channel: policy.Virtio, want: "configfs tsm -sev_guest virtio_console"},
		"tcp":                {tree: with(serial, network), channel: policy.TCP, want: "configfs tsm -sev_guest net_failover virtio_net"},
		"vsock":              {tree: with(serial, vsock), channel: policy.Vsock, want: "configfs tsm -sev_guest vsock vmw_vsock_virtio_transport"},
		"no network":         {tree: with(serial), channel: policy.TCP, want: "configfs tsm -sev_guest", lacks: "virtio_net"},
		"no virtio":          {tree: with(serial), channel: policy.Virtio, err: ErrMissing},
		"no vsock":           {tree: with(serial), channel: policy.Vsock, err: ErrMissing},
		"no sev-guest":       {tree: with(virtio), channel: policy.Virtio, err: ErrMissing},
		"no efi_secret":      {tree: edit(with(serial), "modules.dep", efiSecret, ""), channel: policy.Serial, want: "configfs tsm -sev_guest"},
		"neither":            {tree: edit(with(), "modules.dep", efiSecret, ""), lacks: "efi_secret"},
		"sev-guest built in": {tree: edit(with(), "modules.builtin", "kernel", "kernel/drivers/virt/coco/sev-guest/sev-guest.ko\nkernel"), channel: policy.Serial},
	} {
		c, err := choose(tc.tree, "6.12", Guest{Channel: tc.channel, Writes: tc.writes})
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: choose error = %v; want %v", name, err, tc.err)
		}
		if err != nil {
			continue
		}
		var got, lacks []string
		for _, m := range c.Modules {
			n := nameOf(m.Path)
			if m.Optional {
				n = "-" + n
			}
			got = append(got, n)
		}
		if _, s, _ := strings.Cut(strings.Join(got, " "), " overlay after"); strings.TrimSpace(s) != tc.want {
			t.Errorf("%s: load order = %v; want %s after all others", name, got, tc.want)
		}
		if got[1] != EFISecret && !strings.Contains(name, "no efi_secret") && name != "neither" {
			t.Errorf("%s: load order = %v; want efi_secret first", name, got)
		}
		for _, l := range c.Lacks {
			if l.Name != "fs-erofs" {
				lacks = append(lacks, l.Name)
			}
		}
		if s := strings.Join(lacks, " "); s != tc.lacks {
			t.Errorf("%s: lacks %q; want %q", name, s, tc.lacks)
		}
	}
}

// A kernel that has the general code built in still gets the faster one.
func TestChooseAddsToBuiltIn(t *testing.T) {
	tree := edit(kernel(), "modules.dep", "kernel/crypto/aes_generic.ko: kernel/crypto/crypto_algapi.ko\n", "")
	edit(tree, "modules.alias", "alias crypto-aes aes_generic\n", "")
	edit(tree, "modules.builtin.modinfo", "ext4.license", "aes_generic.alias=crypto-aes\x00ext4.license")
	c, err := choose(tree, "6.12", Guest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range c.Modules {
		if strings.Contains(m.Path, "aes") {
			got = append(got, nameOf(m.Path))
		}
	}
	if !slices.Equal(got, []string{"aesni_intel"}) {
		t.Errorf("modules for aes = %v; want aesni_intel", got)
	}
}

func TestChooseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		tree fstest.MapFS
		want error
	}{
		"no modules.dep":  {remove(kernel(), "modules.dep"), ErrNoIndex},
		"no dm-crypt":     {edit(kernel(), "modules.dep", "kernel/drivers/md/dm-crypt.ko: kernel/drivers/md/dm-mod.ko\n", ""), ErrMissing},
		"no xts":          {edit(kernel(), "modules.alias", "alias crypto-xts xts\n", ""), ErrMissing},
		"host's aes only": {edit(edit(kernel(), "modules.alias", "alias crypto-aes aesni_intel\n", ""), "modules.alias", "alias crypto-aes aes_generic\n", ""), ErrMissing},
		"cycle":           {edit(kernel(), "modules.dep", "kernel/drivers/md/dm-mod.ko:\n", "kernel/drivers/md/dm-mod.ko: kernel/drivers/md/dm-bufio.ko\n"), ErrIndex},
		"dependency without a line": {
			edit(kernel(), "modules.dep", "kernel/drivers/md/dm-mod.ko:\n", ""), ErrIndex},
		"two of a name":     {edit(kernel(), "modules.dep", "kernel/fs/after.ko:\n", "extra/dm_mod.ko:\n"), ErrIndex},
		"no colon":          {edit(kernel(), "modules.dep", "after.ko:", "after.ko"), ErrIndex},
		"absolute":          {edit(kernel(), "modules.dep", "kernel/fs/after.ko:", "/lib/modules/after.ko:"), ErrIndex},
		"upwards":           {edit(kernel(), "modules.dep", "kernel/fs/after.ko:", "../after.ko:"), ErrIndex},
		"not a module":      {edit(kernel(), "modules.dep", "kernel/fs/after.ko:", "kernel/fs/after:"), ErrIndex},
		"alias":             {edit(kernel(), "modules.alias", "alias crypto-xts xts", "alias crypto-xts"), ErrIndex},
		"softdep":           {edit(kernel(), "modules.softdep", "softdep cifs gcm", "soft cifs"), ErrIndex},
		"builtin":           {edit(kernel(), "modules.builtin", "ext4.ko", "ext4"), ErrIndex},
		"modinfo":           {edit(kernel(), "modules.builtin.modinfo", "lines\x00", "lines"), ErrIndex},
		"file absent":       {remove(kernel(), "kernel/fs/after.ko"), fs.ErrNotExist},
		"not ELF":           {edit(kernel(), "kernel/fs/after.ko", "\x7fELF", "#!/bin/sh"), ErrFile},
		"other compression": {edit(kernel(), "modules.dep", "kernel/fs/after.ko:", "kernel/fs/after.ko.lz4:"), fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := choose(tc.tree, "6.12", Guest{}); !errors.Is(err, tc.want) {
				t.Errorf("choose error = %v; want %v", err, tc.want)
			}
		})
	}
}

func remove(tree fstest.MapFS, name string) fstest.MapFS {
	delete(tree, name)
	return tree
}

// Every layout is found, the only version is taken, several are listed.
func TestPlaces(t *testing.T) {
	dir := func(paths ...string) string {
		d := t.TempDir()
		for _, p := range paths {
			if err := os.CopyFS(filepath.Join(d, p), kernel()); err != nil {
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
	for name, tc := range map[string]struct {
		dir, version string
		want         string
		err          error
	}{
		"lib":                       {dir("lib/modules/6.12"), "6.12", "6.12", nil},
		"usr/lib":                   {dir("usr/lib/modules/6.12"), "6.12", "6.12", nil},
		"link":                      {link, "", "6.12", nil},
		"link out of it":            {absolute, "", "6.12", nil},
		"only one":                  {dir("lib/modules/6.12"), "", "6.12", nil},
		"none":                      {dir(), "", "there is no folder lib/modules/VERSION or usr/lib/modules/VERSION", ErrVersion},
		"several":                   {dir("lib/modules/6.12", "usr/lib/modules/6.1"), "", "6.1, 6.12", ErrVersion},
		"one of several":            {dir("lib/modules/6.12", "usr/lib/modules/6.1"), "6.1", "6.1", nil},
		"other":                     {dir("lib/modules/6.12"), "6.13", "6.12", ErrVersion},
		"no folder":                 {filepath.Join(t.TempDir(), "absent"), "", "absent", fs.ErrNotExist},
		"a version with a way up":   {dir("lib/modules/6.12"), "../modules/6.12", "6.12", ErrVersion},
		"a version that is no name": {dir("lib/modules/6.12"), ".", "6.12", ErrVersion},
	} {
		c, err := Choose(tc.dir, tc.version, Guest{})
		switch {
		case !errors.Is(err, tc.err):
			t.Errorf("%s: Choose error = %v; want %v", name, err, tc.err)
		case err == nil && c.Version != tc.want:
			t.Errorf("%s: version = %s; want %s", name, c.Version, tc.want)
		case err != nil && !strings.Contains(err.Error(), tc.want):
			t.Errorf("%s: Choose error = %v; want it to say %q", name, err, tc.want)
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

// modprobe says for every name which modules it would load. All of them are
// chosen, and nothing is loaded before what it needs.
func TestModprobeAgrees(t *testing.T) {
	modprobe := oracle.Tool(t, "modprobe")
	for kernel, channel := range map[string]policy.ChannelKind{"debian-kernel": "", "debian13-kernel": policy.TCP, "modular": policy.Serial} {
		t.Run(kernel, func(t *testing.T) {
			dir := oracle.Fixture(t, kernel)
			g := Guest{Channel: channel, Writes: true}
			c, err := Choose(dir, "", g)
			if err != nil {
				t.Fatal(err)
			}
			at := make(map[string]int)
			for i, m := range c.Modules {
				at[nameOf(m.Path)] = i
			}
			compared := 0
			for _, n := range needs(g) {
				if slices.ContainsFunc(c.Lacks, func(l Lack) bool { return l.Name == n.name }) || kernel == "debian13-kernel" && n.name == EFISecret {
					continue
				}
				// The configuration of this machine has no say.
				out, err := exec.Command(modprobe, "-C", "/dev/null", "-d", dir, "-S", c.Version, "--show-depends", n.name).CombinedOutput()
				if err != nil {
					t.Errorf("modprobe --show-depends %s: %v\n%s", n.name, err, out)
				}
				for line := range strings.Lines(string(out)) {
					file, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
					if !ok || strings.Contains(file, "/kernel/drivers/crypto/") {
						continue
					}
					compared++
					if _, ok := at[nameOf(file)]; !ok {
						t.Errorf("%s: modprobe loads %s, which is not chosen", n.name, nameOf(file))
					}
				}
			}
			if compared < 20 {
				t.Errorf("modprobe named %d modules; the test looks at nothing", compared)
			}
			x, err := readIndex(os.DirFS(filepath.Join(dir, "lib/modules", c.Version)))
			if err != nil {
				t.Fatal(err)
			}
			for name := range maps.Keys(at) {
				for _, dep := range x.modules[name].needs {
					if i, ok := at[dep]; !ok || i >= at[name] {
						t.Errorf("%s is loaded before %s, which it needs", name, dep)
					}
				}
			}
		})
	}
}
