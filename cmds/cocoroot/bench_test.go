package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/oracle"
)

// BenchmarkTool runs build/cocoroot and the program that an owner would use in
// its place in turns, as whole processes over the same files in memory, and
// reports medians: ms for cocoroot, peer-ms, and times-as-fast, the median of
// the ratios of two runs that followed each other (-benchtime 5x: of five).
//
//	seal      a file system that is ready, 1.2 GiB of ext4, beside a copy of it,
//	          cryptsetup reencrypt and veritysetup format
//	seal-tar  Debian 12 with systemd, 173 MB, beside mksquashfs -tar with zstd 9,
//	          which encrypts nothing; bytes and peer-bytes are what they write
//	verify    that image, beside veritysetup verify
//	measure   beside sev-snp-measure, which must print the same digest
func BenchmarkTool(b *testing.B) {
	tool := oracle.Artifact(b, "cocoroot")
	dir, err := os.MkdirTemp("/dev/shm", "cocoroot-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	root, image, stock := filepath.Join(dir, "root"), filepath.Join(dir, "image"), filepath.Join(dir, "stock")

	b.Run("seal", func(b *testing.B) {
		key := filepath.Join(dir, "key")
		makeRoot(b, root, 1100, 1228)
		if err := os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)), 0o600); err != nil {
			b.Fatal(err)
		}
		inTurns(b, 1, func() {
			for _, old := range []string{image, image + ".cmdline", image + ".manifest.json", stock} {
				os.Remove(old)
			}
		}, func() string {
			return oracle.Run(b, tool, "seal", root, "-o", image, "--key-file", key, "--allow", "no-init")
		}, func() string { return stockSeal(b, root, stock, key) })
		os.Remove(stock)
		os.Remove(root)
	})

	b.Run("seal-tar", func(b *testing.B) { sealTarInTurns(b, tool, dir) })

	b.Run("verify", func(b *testing.B) {
		text, err := os.ReadFile(image + ".manifest.json")
		if err != nil {
			b.Fatal(err)
		}
		m, err := manifest.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		p, veritysetup := m.Image, oracle.Tool(b, "veritysetup")
		inTurns(b, 1, func() {}, func() string {
			return oracle.Run(b, tool, "verify", image, "--manifest", image+".manifest.json")
		}, func() string {
			return oracle.Run(b, veritysetup, "verify", image, image, hex.EncodeToString(p.RootHash[:]), fmt.Sprintf("--hash-offset=%d", p.DataSize()))
		})
	})

	for _, mode := range []string{"sev", "sev-es", "sev-snp"} {
		for _, kernel := range []string{"", "-kernel"} {
			b.Run("measure-"+mode+kernel, func(b *testing.B) { measureInTurns(b, tool, mode, kernel != "") })
		}
	}
}

// sealTarInTurns seals a tar, and has mksquashfs make a squashfs of it.
func sealTarInTurns(b *testing.B, tool, dir string) {
	data, err := os.ReadFile(oracle.Fixture(b, "debian12.tar"))
	if err != nil {
		b.Fatal(err)
	}
	name := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(name("tar"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	defer os.Remove(name("tar"))
	own, peer := name("tar.image"), name("tar.squashfs")
	command := fmt.Sprintf("%s - %s -tar -quiet -no-progress -comp zstd -Xcompression-level 9 <%s", oracle.Tool(b, "mksquashfs"), peer, name("tar"))
	inTurns(b, 1, func() {
		for _, old := range []string{own, own + ".key", own + ".cmdline", own + ".manifest.json", peer} {
			os.Remove(old)
		}
	}, func() string {
		return oracle.Run(b, tool, "seal", name("tar"), "-o", own, "--allow", "console-login,machine-id")
	}, func() string { return oracle.Run(b, "/bin/sh", "-c", command) })
	for unit, path := range map[string]string{"bytes": own, "peer-bytes": peer} {
		fi, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(fi.Size()), unit)
	}
	os.Remove(own)
	os.Remove(peer)
}

// inTurns lets two programs do the same work, so many pairs for each round of
// the benchmark, and before each clears what the last one left.
func inTurns(b *testing.B, pairs int, before func(), ours, peers func() string) {
	var own, peer, ratio []float64
	for b.Loop() {
		for range pairs {
			before()
			start := time.Now()
			ours()
			middle := time.Now()
			peers()
			o, p := middle.Sub(start).Seconds(), time.Since(middle).Seconds()
			own, peer, ratio = append(own, o*1e3), append(peer, p*1e3), append(ratio, p/o)
		}
	}
	b.ReportMetric(0, "ns/op")
	for unit, all := range map[string][]float64{"ms": own, "peer-ms": peer, "times-as-fast": ratio} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], unit)
	}
}

// makeRoot makes an ext4 of size MiB, with a file of full MiB of bytes that do
// not repeat.
func makeRoot(b *testing.B, path string, full, size int64) {
	b.Helper()
	files := path + ".files"
	defer os.RemoveAll(files)
	if err := os.Mkdir(files, 0o755); err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(filepath.Join(files, "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{3}), full<<20); err != nil {
		b.Fatal(err)
	}
	oracle.Run(b, oracle.Tool(b, "mke2fs"), "-q", "-t", "ext4", "-d", files, path, fmt.Sprintf("%dM", size))
}

// stockSeal seals a copy of root with stock tools and our parameters.
func stockSeal(b *testing.B, root, image, key string) string {
	b.Helper()
	const header = 32 << 20 // cryptsetup wants twice the header's 16 MiB
	oracle.Run(b, "cp", "--sparse=never", root, image)
	fi, err := os.Stat(image)
	if err == nil {
		err = os.Truncate(image, fi.Size()+header)
	}
	if err != nil {
		b.Fatal(err)
	}
	size := fi.Size() + header
	oracle.Run(b, oracle.Tool(b, "cryptsetup"), "reencrypt", "-q", "--encrypt", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--sector-size", "4096", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--reduce-device-size", fmt.Sprint(header), "--key-file", key, image)
	return oracle.Run(b, oracle.Tool(b, "veritysetup"), "format", fmt.Sprintf("--data-blocks=%d", size/4096), fmt.Sprintf("--hash-offset=%d", size), image, image)
}

// measureInTurns measures build.sh's firmware, with its kernel and archive or
// without.
func measureInTurns(b *testing.B, tool, mode string, kernel bool) {
	peer, err := exec.LookPath("sev-snp-measure")
	if err != nil {
		b.Skip("sev-snp-measure is not installed (pip install sev-snp-measure)")
	}
	firmware := oracle.Artifact(b, "OVMF.amdsev.fd")
	ours := []string{"measure", "--mode", mode, "--firmware", firmware}
	theirs := []string{"--mode", map[string]string{"sev": "sev", "sev-es": "seves", "sev-snp": "snp"}[mode], "--ovmf", firmware}
	if mode != "sev" {
		cpus := []string{"--vcpus", "4", "--vcpu-type", "EPYC-Milan", "--guest-features", map[string]string{"sev-es": "0x0", "sev-snp": "0x1"}[mode]}
		ours, theirs = append(ours, cpus...), append(theirs, cpus...)
	}
	if mode == "sev-es" {
		ours = append(ours, "--vm-type", "init2") // it knows no other
	}
	if kernel {
		files := []string{"--kernel", oracle.Artifact(b, "bzImage"), "--initrd", oracle.Artifact(b, "initrd.img")}
		ours = append(append(ours, files...), "--cmdline", "console=ttyS0")
		theirs = append(append(theirs, files...), "--append", "console=ttyS0")
	}
	digest := func(program string, args []string) string {
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			b.Fatalf("%s %q: %v", program, args, err)
		}
		return strings.TrimSpace(string(out))
	}
	if a, p := digest(tool, ours), digest(peer, theirs); a != p {
		b.Fatalf("the digest is %s; sev-snp-measure says %s", a, p)
	}
	inTurns(b, 5, func() {}, func() string { return digest(tool, ours) }, func() string { return digest(peer, theirs) })
}
