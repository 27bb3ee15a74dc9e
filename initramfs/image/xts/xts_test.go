package xts

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

	"cocoroot/initramfs/oracle"
)

const sectorSize = 4096

// ciphers returns every path that this processor can take.
func ciphers(t testing.TB, key []byte) map[string]*Cipher {
	t.Helper()
	all := make(map[string]*Cipher)
	add := func(name string, c *Cipher, err error) {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		all[name] = c
	}
	c, err := newSlow(key)
	add("slow", c, err)
	if fast() {
		c, err = newFast(key)
		add("fast", c, err)
	}
	return all
}

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestFastPathIsTested: on the machine that decides, the assembly ran.
func TestFastPathIsTested(t *testing.T) {
	c, err := New(random(1, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.slow != nil {
		oracle.Missing(t, "this processor has no AES-NI and AVX")
	}
}

func TestVectors(t *testing.T) {
	plain := make([]byte, 512)
	for i := range plain {
		plain[i] = byte(i)
	}
	vectors := readVectors(t)
	if len(vectors) != 5 {
		t.Fatalf("%d vectors; want 5", len(vectors))
	}
	for _, v := range vectors {
		number, err := strconv.ParseUint(v["number"], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range ciphers(t, unhex(t, v["key"])) {
			got := bytes.Clone(plain)
			c.Encrypt(got, number)
			if !bytes.Equal(got, unhex(t, v["ciphertext"])) {
				t.Errorf("vector %s, %s: ciphertext = %x", v["vector"], name, got)
			}
		}
	}
}

// readVectors reads testdata/ieee1619.txt.
func readVectors(t *testing.T) []map[string]string {
	t.Helper()
	f, err := os.Open("testdata/ieee1619.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []map[string]string
	var v map[string]string
	var field string
	s := bufio.NewScanner(f)
	for s.Scan() {
		line := s.Text()
		if line == "" {
			v = nil
		} else if strings.HasPrefix(line, " ") {
			v[field] += strings.TrimSpace(line)
		} else if name, value, ok := strings.Cut(line, ":"); ok && line[0] != '#' {
			if v == nil {
				v = make(map[string]string)
				all = append(all, v)
			}
			field = name
			v[field] = strings.TrimSpace(value)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAgainstOpenSSL compares whole sectors under many keys and numbers.
func TestAgainstOpenSSL(t *testing.T) {
	gcc := oracle.Tool(t, "gcc")
	if _, err := os.Stat("/usr/include/openssl/evp.h"); err != nil {
		oracle.Missing(t, "OpenSSL's headers are not installed (libssl-dev)")
	}
	program := filepath.Join(t.TempDir(), "openssl")
	oracle.Run(t, gcc, "-O1", "-Wall", "-Werror", "-o", program, "testdata/openssl.c", "-lcrypto")

	rng := rand.New(rand.NewChaCha8([32]byte{2}))
	numbers := []uint64{0, 1, 8, 255, 1 << 31, 1<<32 - 8, 1 << 63, 1<<64 - 1}
	for len(numbers) < 300 {
		numbers = append(numbers, rng.Uint64()>>rng.IntN(64))
	}
	for _, size := range []int{Granule, 512, sectorSize} {
		var in, want, got bytes.Buffer
		for i, number := range numbers {
			key, plain := random(byte(i), KeySize), random(byte(i+1), size)
			in.Write(key)
			in.Write(binary.LittleEndian.AppendUint64(nil, number))
			in.Write(make([]byte, 8))
			in.Write(plain)
			c, err := New(key)
			if err != nil {
				t.Fatal(err)
			}
			c.Encrypt(plain, number)
			c.Close()
			got.Write(plain)
		}
		cmd := exec.Command(program, strconv.Itoa(size))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &want, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if want.Len() != len(numbers)*size {
			t.Fatalf("OpenSSL wrote %d bytes; want %d", want.Len(), len(numbers)*size)
		}
		for i, number := range numbers {
			if !bytes.Equal(got.Next(size), want.Next(size)) {
				t.Errorf("%d bytes, key %d, number %d: not OpenSSL's ciphertext", size, i, number)
			}
		}
	}
}

type seed struct {
	key, plain []byte
	number     uint64
	shift      byte
}

func seeds() []seed {
	return []seed{
		{random(1, KeySize), random(2, 3*Granule), 7, 1},
		{random(3, KeySize), bytes.Repeat([]byte{0xff}, sectorSize), 1 << 63, 0},
		{make([]byte, KeySize), make([]byte, 31*Granule), 1<<64 - 1, 63},
	}
}

// TestFuzzEncryptSeeds: no seed is cut or replaced before it is encrypted,
// and there is more than one granule, so that tweaks go from one to the next.
func TestFuzzEncryptSeeds(t *testing.T) {
	for i, s := range seeds() {
		if len(s.key) != KeySize || len(s.plain)%Granule != 0 || len(s.plain) < 2*Granule {
			t.Errorf("seed %d: key of %d bytes, sector of %d", i, len(s.key), len(s.plain))
		}
	}
}

// FuzzEncrypt compares with x/crypto/xts at every alignment, and looks at what lies
// around the sector.
func FuzzEncrypt(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s.key, s.plain, s.number, s.shift)
	}
	f.Fuzz(func(t *testing.T, key, plain []byte, number uint64, shift byte) {
		if len(key) != KeySize {
			key = random(byte(len(key)), KeySize)
		}
		plain = plain[:len(plain)/Granule*Granule]
		if len(plain) == 0 {
			return
		}
		ref, err := xts.NewCipher(aes.NewCipher, key)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, len(plain))
		ref.Encrypt(want, plain, number)
		for name, c := range ciphers(t, key) {
			const guard = 64
			lo := guard + int(shift%guard)
			hi := lo + len(plain)
			around := random(4, hi+guard)
			buf := bytes.Clone(around)
			copy(buf[lo:], plain)
			c.Encrypt(buf[lo:hi], number)
			if !bytes.Equal(buf[lo:hi], want) {
				t.Errorf("%s: not the ciphertext of x/crypto/xts", name)
			}
			if !bytes.Equal(buf[:lo], around[:lo]) || !bytes.Equal(buf[hi:], around[hi:]) {
				t.Errorf("%s: Encrypt wrote beside the sector", name)
			}
		}
	})
}

// TestSchedule compares with FIPS 197, appendix A.3: its key, and the last
// four words that come of it.
func TestSchedule(t *testing.T) {
	if !fast() {
		oracle.Missing(t, "this processor has no AES-NI and AVX")
	}
	half := unhex(t, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
	c, err := newFast(append(half, half...))
	if err != nil {
		t.Fatal(err)
	}
	s := c.schedules.Bytes()
	for name, schedule := range map[string][]byte{"data": s[:len(s)/2], "tweak": s[len(s)/2:]} {
		if got := hex.EncodeToString(schedule[len(schedule)-16:]); len(schedule) != 240 || got != "fe4890d1e6188d0b046df344706c631e" {
			t.Errorf("%s: last round key of %d bytes = %s", name, len(schedule), got)
		}
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Errorf("Close twice = %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, n := range []int{0, 32, KeySize - 1, KeySize + 1} {
		if _, err := New(make([]byte, n)); err == nil || !strings.Contains(err.Error(), "key has 64 bytes") {
			t.Errorf("New(key of %d bytes) = %v; want an error", n, err)
		}
	}
}

func TestEncryptRefuses(t *testing.T) {
	buf := make([]byte, 4*Granule)
	for name, c := range ciphers(t, random(1, KeySize)) {
		for what, f := range map[string]func(){
			"empty":            func() { c.Encrypt(nil, 0) },
			"part of granule":  func() { c.Encrypt(buf[:16], 0) },
			"more than 16 MiB": func() { c.Encrypt(make([]byte, 16<<20+Granule), 0) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: %s: Encrypt did not panic", name, what)
					}
				}()
				f()
			}()
		}
		c.Encrypt(buf[:Granule], 0)
	}
}

func BenchmarkEncrypt(b *testing.B) {
	for _, name := range []string{"fast", "slow"} {
		b.Run(fmt.Sprintf("%s/%d", name, sectorSize), func(b *testing.B) {
			c := ciphers(b, random(1, KeySize))[name]
			if c == nil {
				b.Skip("no fast path on this processor")
			}
			sector := make([]byte, sectorSize)
			b.SetBytes(sectorSize)
			for number := uint64(0); b.Loop(); number += sectorSize / 512 {
				c.Encrypt(sector, number)
			}
		})
	}
}
