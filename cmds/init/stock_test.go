package main_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/verity"
)

// TestStockImage boots what cryptsetup and veritysetup make of a file system.
func TestStockImage(t *testing.T) {
	t.Parallel()
	for name, pbkdf := range some(t, map[string][]string{
		"pbkdf2":   {"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
		"argon2id": {"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "65536", "--pbkdf-parallel", "2"},
	}, "argon2id") {
		t.Run(name, func(t *testing.T) {
			s := standardImage(t)
			dir := t.TempDir()
			image, key := filepath.Join(dir, "image"), filepath.Join(dir, "key")
			write(t, key, s.key)
			makeSquashfs(t, filepath.Join(filepath.Dir(s.path), "root"), image)
			g := s.boots(t)
			g.image = image
			params := stockImage(t, image, key, pbkdf)
			g.cmdline = strings.Replace(s.cmdline, s.policy.Image.String(), params.String(), 1)
			g.runs(t)

			line := filepath.Join(dir, "cmdline")
			write(t, line, []byte(g.cmdline+"\n"))
			tool := oracle.Artifact(t, "cocoroot")
			oracle.Run(t, tool, "inspect", image)
			oracle.Run(t, tool, "verify", image, "--cmdline-file", line)
			oracle.Run(t, tool, "verify", image, "--cmdline-file", line, "--key-file", key)
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("changed"), 20<<20); err != nil {
				t.Fatal(err)
			}
			err = exec.Command(tool, "verify", image, "--cmdline-file", line).Run()
			if code, ok := err.(*exec.ExitError); !ok || code.ExitCode() != 5 {
				t.Errorf("verify of a changed image: %v; want exit code 5", err)
			}
		})
	}
}

// stockImage encrypts a file system where it lies and puts a hash tree after
// it, as cryptsetup's own manual does.
func stockImage(t *testing.T, image, key string, pbkdf []string) verity.Params {
	t.Helper()
	const header = 32 << 20 // cryptsetup takes half of it for the header
	fi, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	size := (fi.Size()+4095)/4096*4096 + header
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, oracle.Tool(t, "cryptsetup"), append([]string{"reencrypt", "-q", "--encrypt", "--type", "luks2", "--cipher", "aes-xts-plain64",
		"--key-size", "512", "--sector-size", "4096", "--reduce-device-size", fmt.Sprint(header), "--key-file", key}, append(pbkdf, image)...)...)
	out := oracle.Run(t, oracle.Tool(t, "veritysetup"), "format", fmt.Sprintf("--data-blocks=%d", size/4096),
		fmt.Sprintf("--hash-offset=%d", size), image, image)
	value := func(name string) []byte {
		found := regexp.MustCompile(name + `:\s*([0-9a-f]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("veritysetup printed no %s:\n%s", name, out)
		}
		b, err := hex.DecodeString(found[1])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	p := verity.Params{DataBlocks: uint64(size / 4096), Salt: value("Salt")}
	copy(p.RootHash[:], value("Root hash"))
	return p
}
