package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/volume"
)

var (
	someSecret = bytes.Repeat([]byte("0123456789abcdef"), 4)
	someHeader = Header{Name: "db", Sections: 31, Salt: [saltSize]byte{1, 2, 3, 31: 32}}
)

// someBlock is the header's block with the key's HMAC.
func someBlock() []byte { return someHeader.seal(headerKey(someSecret, "db")) }

// remade gives a block that was changed the HMAC of the key.
func remade(b []byte, change func(b []byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	copy(b[macAt:], mac(headerKey(someSecret, "db"), b))
	return b
}

// The bytes, written down by hand: what one version writes, each later one reads.
func TestHeader(t *testing.T) {
	want := make([]byte, 4096)
	copy(want, "cocoroot state\r\n\x01\x00\x00\x00\x1f\x00\x00\x00db")
	copy(want[56:], "\x01\x02\x03")
	want[87] = 32
	got := someBlock()
	if !bytes.Equal(got[:4064], want[:4064]) {
		t.Errorf("the header is %x", got[:128])
	}
	h, err := unseal(got, headerKey(someSecret, "db"))
	if err != nil || h != someHeader {
		t.Errorf("unseal = %+v, %v; want %+v", h, err, someHeader)
	}
	if l := h.layout(); l != (volume.Layout{Start: 1 << 20, Journal: true, Sections: 31}) {
		t.Errorf("layout = %+v", l)
	}
}

// openssl derives the same keys and makes the same HMAC.
func TestKeysByOpenssl(t *testing.T) {
	openssl := oracle.Tool(t, "openssl")
	clean := func(out string) string {
		return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(out), ":", ""))
	}
	hkdf := func(n, label, salt string) string {
		args := []string{"kdf", "-keylen", n, "-kdfopt", "digest:SHA256", "-kdfopt", "hexkey:" + hex.EncodeToString(someSecret)}
		if salt != "" {
			args = append(args, "-kdfopt", "hexsalt:"+salt)
		}
		return clean(oracle.Run(t, openssl, append(args, "-kdfopt", "hexinfo:"+hex.EncodeToString([]byte(label+"\x00db")), "HKDF")...))
	}
	salt := hex.EncodeToString(someHeader.Salt[:])
	key := someHeader.volumeKey(someSecret)
	want := hkdf("64", "cocoroot/state/v1/aes-xts", salt) + hkdf("32", "cocoroot/state/v1/hmac-sha256", salt)
	if hex.EncodeToString(key) != want {
		t.Errorf("volume key = %x; want openssl's %s", key, want)
	}
	macKey := hkdf("32", "cocoroot/state/v1/header", "")
	if got := headerKey(someSecret, "db"); hex.EncodeToString(got) != macKey {
		t.Errorf("header key = %x; want openssl's %s", got, macKey)
	}
	block := someBlock()
	file := filepath.Join(t.TempDir(), "block")
	if err := os.WriteFile(file, block[:4064], 0o600); err != nil {
		t.Fatal(err)
	}
	out := oracle.Run(t, openssl, "mac", "-digest", "SHA256", "-macopt", "hexkey:"+macKey, "-in", file, "HMAC")
	if clean(out) != hex.EncodeToString(block[4064:]) {
		t.Errorf("HMAC = %x; want openssl's %s", block[4064:], out)
	}
}

// Nothing that the keys go by may be changed without changing them.
func TestKeysDiffer(t *testing.T) {
	other := someHeader
	other.Salt[0]++
	named := someHeader
	named.Name = "db2"
	seen := map[string]string{}
	for name, key := range map[string][]byte{
		"the key": someHeader.volumeKey(someSecret), "another salt": other.volumeKey(someSecret),
		"another name": named.volumeKey(someSecret), "another secret": someHeader.volumeKey(someSecret[1:]),
	} {
		if len(key) != volume.KeySize {
			t.Errorf("%s has %d bytes", name, len(key))
		}
		for _, part := range [][]byte{key[:32], key[32:64], key[64:]} {
			if first, again := seen[string(part)]; again {
				t.Errorf("%s and %s have a part in common", name, first)
			}
			seen[string(part)] = name
		}
	}
}

// Every bit of the block counts, and is not looked at before the HMAC is right.
func TestHeaderRefuses(t *testing.T) {
	key := headerKey(someSecret, "db")
	for i := range HeaderSize {
		b := someBlock()
		b[i] ^= 1 << (i % 8)
		if h, err := unseal(b, key); !errors.Is(err, errMAC) {
			t.Fatalf("with byte %d changed: %+v, %v; want errMAC", i, h, err)
		}
	}
	for _, n := range []int{0, 31, 4064, 4095, 4097} {
		if _, err := unseal(make([]byte, n), key); !errors.Is(err, errMAC) {
			t.Errorf("%d bytes: %v; want errMAC", n, err)
		}
	}
	for name, key := range map[string][]byte{"another name": headerKey(someSecret, "db2"), "another secret": headerKey(someSecret[1:], "db")} {
		if _, err := unseal(someBlock(), key); !errors.Is(err, errMAC) {
			t.Errorf("with the key of %s: %v; want errMAC", name, err)
		}
	}
}

// A header of ours that another version has made is known as ours, and refused.
func TestOtherVersions(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"version": func(b []byte) { binary.LittleEndian.PutUint32(b[16:], 2) },
		"magic":   func(b []byte) { b[0] = 'C' },
		"rest":    func(b []byte) { b[88] = 1 },
		"end":     func(b []byte) { b[4063] = 1 },
		"name":    func(b []byte) { b[24+5] = 'x' },
	} {
		b := remade(someBlock(), change)
		if _, err := unseal(b, headerKey(someSecret, "db")); !errors.Is(err, errVersion) {
			t.Errorf("%s: %v; want errVersion", name, err)
		}
		for _, o := range []Order{{}, {Create: true}} {
			if p, _, err := plan(someSecret, "db", 1<<30, [2][]byte{make([]byte, 4096), b}, o); fatal.CodeOf(err, "") != fatal.StateHeader {
				t.Errorf("%s, %+v: plan = %+v, %v; want STATE-HEADER", name, o, p, err)
			}
		}
	}
}

// What becomes of a disk goes by the two copies and the owner's order.
func TestPlan(t *testing.T) {
	good, zero := someBlock(), make([]byte, HeaderSize)
	torn := append(bytes.Clone(good[:512]), make([]byte, HeaderSize-512)...)
	earlier := someHeader
	earlier.Salt[9] = 7
	old := earlier.seal(headerKey(someSecret, "db"))
	foreign := Header{Name: "db2", Sections: 31}.seal(headerKey(someSecret, "db2"))
	// Never made, but for completeness: the key of one name, and another name inside.
	mixed := Header{Name: "db2", Sections: 31}.seal(headerKey(someSecret, "db"))
	create := Order{Create: true}
	for name, tc := range map[string]struct {
		blocks [2][]byte
		order  Order
		code   fatal.Code // "" for a plan
		create bool
		has    [2]bool
	}{
		"both":                     {blocks: [2][]byte{good, good}, has: [2]bool{true, true}},
		"both, to be created":      {blocks: [2][]byte{good, good}, order: create, has: [2]bool{true, true}},
		"first torn":               {blocks: [2][]byte{torn, good}, has: [2]bool{false, true}},
		"second torn":              {blocks: [2][]byte{good, torn}, has: [2]bool{true, false}},
		"first gone, to be made":   {blocks: [2][]byte{zero, good}, order: create, has: [2]bool{false, true}},
		"second gone":              {blocks: [2][]byte{good, zero}, has: [2]bool{true, false}},
		"empty":                    {blocks: [2][]byte{zero, zero}, code: fatal.StateMissing},
		"empty, a floor":           {blocks: [2][]byte{zero, zero}, order: Order{Floor: 1}, code: fatal.StateMissing},
		"empty, to be made":        {blocks: [2][]byte{zero, zero}, order: create, create: true},
		"both torn":                {blocks: [2][]byte{torn, torn}, code: fatal.StateHeader},
		"both torn, to be made":    {blocks: [2][]byte{torn, torn}, order: create, create: true},
		"one torn, one gone":       {blocks: [2][]byte{torn, zero}, code: fatal.StateHeader},
		"another state's":          {blocks: [2][]byte{foreign, foreign}, code: fatal.StateHeader},
		"two lives":                {blocks: [2][]byte{good, old}, code: fatal.StateHeader},
		"two lives, to be made":    {blocks: [2][]byte{old, good}, order: create, code: fatal.StateHeader},
		"another name":             {blocks: [2][]byte{mixed, mixed}, code: fatal.StateHeader},
		"another name, to be made": {blocks: [2][]byte{mixed, zero}, order: create, code: fatal.StateHeader},
	} {
		p, h, err := plan(someSecret, "db", 1<<30, tc.blocks, tc.order)
		if tc.code != "" {
			if fatal.CodeOf(err, "none") != tc.code || p.Header != nil {
				t.Errorf("%s: plan = %+v, %v; want %s", name, p, err, tc.code)
			}
			continue
		}
		if err != nil || p.Create != tc.create || p.Has != tc.has || p.Floor != tc.order.Floor || p.Layout != h.layout() {
			t.Errorf("%s: plan = %+v, %v", name, p, err)
			continue
		}
		if !tc.create && (h != someHeader || !bytes.Equal(p.Header, good)) {
			t.Errorf("%s: the header is %+v; want the one on the disk", name, h)
		}
		if tc.create && (h.Salt == [saltSize]byte{} || h.Salt == someHeader.Salt || h.Sections != volume.JournalSections(1<<30)) {
			t.Errorf("%s: a header with the salt %x and %d sections; want a fresh one", name, h.Salt, h.Sections)
		}
		if again, err := unseal(p.Header, headerKey(someSecret, "db")); err != nil || again != h {
			t.Errorf("%s: the header to write is %+v, %v; want %+v", name, again, err, h)
		}
	}
}

// headerSeeds reach each part of what Decode does.
func headerSeeds() [][]byte {
	return [][]byte{
		someBlock(),
		remade(someBlock(), func(b []byte) { b[16] = 9 }),
		remade(someBlock(), func(b []byte) { b[4000] = 9 }),
		make([]byte, HeaderSize),
		{},
	}
}

func TestFuzzHeaderSeeds(t *testing.T) {
	for i, s := range headerSeeds() {
		if _, err := Decode(s); (err == nil) != (i == 0) {
			t.Errorf("seed %d: Decode = %v; want only the first accepted", i, err)
		}
	}
}

// FuzzHeader: the disk is the host's. Without the key no block is a header, and
// with it only one form of each.
func FuzzHeader(f *testing.F) {
	for _, s := range headerSeeds() {
		f.Add(s)
	}
	key := headerKey(someSecret, "db")
	f.Fuzz(func(t *testing.T, block []byte) {
		if _, err := unseal(block, key); err == nil && !bytes.Equal(block, someBlock()) {
			t.Errorf("a header was forged: %x", block)
		}
		h, err := Decode(block)
		if err == nil && !bytes.Equal(h.encode()[:macAt], block[:macAt]) {
			t.Errorf("Decode(%x) = %+v, which is written in another way", block, h)
		}
		for _, blocks := range [][2][]byte{{block, block}, {someBlock(), block}} {
			if p, _, err := plan(someSecret, "db", 1<<30, blocks, Order{}); err == nil && (p.Create || !bytes.Equal(p.Header, someBlock())) {
				t.Errorf("plan = %+v without an order", p)
			}
		}
	})
}
