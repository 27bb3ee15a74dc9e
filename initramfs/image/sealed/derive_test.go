package sealed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
)

// TestDerivedByOpenssl has openssl derive the same: what a seed makes must
// stay what it is.
func TestDerivedByOpenssl(t *testing.T) {
	openssl := oracle.Tool(t, "openssl")
	seed := []byte(strings.Repeat("seed-bytes-", 3))
	content := sha256.Sum256([]byte("file system"))
	key := make([]byte, 32)
	stream, err := Derive(seed, content, key)
	if err != nil {
		t.Fatal(err)
	}
	hkdf := func(label string) string {
		out := oracle.Run(t, openssl, "kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", "hexkey:"+hex.EncodeToString(seed),
			"-kdfopt", "hexsalt:"+hex.EncodeToString(content[:]), "-kdfopt", "info:"+label, "HKDF")
		return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(out), ":", ""))
	}
	if want := hkdf("cocoroot seal v1: disk key"); hex.EncodeToString(key) != want {
		t.Errorf("disk key = %x; want openssl's %s", key, want)
	}
	got := make([]byte, 1000)
	for _, part := range [][]byte{got[:1], got[1:70], got[70:]} { // however it is read
		if _, err := io.ReadFull(stream, part); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(openssl, "enc", "-aes-256-ctr", "-K", hkdf("cocoroot seal v1: random stream"), "-iv", strings.Repeat("0", 32))
	cmd.Stdin = bytes.NewReader(make([]byte, len(got)))
	want, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("stream = %x…; want openssl's %x…", got[:32], want[:32])
	}
}

func TestShortSeed(t *testing.T) {
	if _, err := Derive(make([]byte, MinSeed-1), [32]byte{}, nil); !errors.Is(err, ErrSeed) {
		t.Errorf("Derive = %v; want ErrSeed", err)
	}
}
