package sevcert

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// rootsOf returns roots that know only the platform's authority.
func rootsOf(t *testing.T, p *platform) Roots {
	t.Helper()
	return Roots{arks: map[string]string{p.Root: "test"}}
}

func TestVerify(t *testing.T) {
	for _, bits := range []int{2048, 4096} {
		p := newPlatform(t, bits)
		var b Bundle
		if err := b.Add(p.chain()); err != nil {
			t.Fatal(err)
		}
		pdh, generation, err := b.Verify(rootsOf(t, p))
		if err != nil || generation != "test" {
			t.Fatalf("%d bits: Verify = %s, %v", bits, generation, err)
		}
		if _, err := pdh.ECDH(); err != nil {
			t.Error(err)
		}
	}
}

// The certificates come in any order, in binary and base64, in one file or in
// many, and with a second copy of the CEK.
func TestBundleForms(t *testing.T) {
	p := newPlatform(t, 2048)
	text := func(b ...[]byte) []byte { return []byte(base64.StdEncoding.EncodeToString(slices.Concat(b...)) + "\n") }
	for name, files := range map[string][][]byte{
		"as QEMU has them": {text(p.PDH), text(p.PEK, p.OCA, p.RawCEK), p.CEK, p.ASK, p.ARK},
		"CEK first":        {p.CEK, p.RawCEK, p.PEK, p.OCA, p.PDH, slices.Concat(p.ASK, p.ARK)},
		"twice":            {p.chain(), p.chain()},
		"ARK unsigned":     {slices.Concat(p.PDH, p.PEK, p.OCA, p.CEK, p.ASK), p.ARK[:64+512]},
	} {
		var b Bundle
		for _, f := range files {
			if err := b.Add(f); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, _, err := b.Verify(rootsOf(t, p)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	p, other := newPlatform(t, 2048), newPlatform(t, 2048)
	// flip changes one byte of a copy.
	flip := func(b []byte, at int) []byte {
		b = slices.Clone(b)
		b[at] ^= 1
		return b
	}
	good := map[string][]byte{"pdh": p.PDH, "pek": p.PEK, "oca": p.OCA, "cek": p.CEK, "ask": p.ASK, "ark": p.ARK}
	for name, tc := range map[string]struct {
		change map[string][]byte
		want   error
	}{
		"good":                   {nil, nil},
		"no PDH":                 {map[string][]byte{"pdh": nil}, ErrMissing},
		"no OCA":                 {map[string][]byte{"oca": nil}, ErrMissing},
		"no ARK":                 {map[string][]byte{"ark": nil}, ErrMissing},
		"CEK of the chip":        {map[string][]byte{"cek": p.RawCEK}, ErrCEK},
		"another's PDH":          {map[string][]byte{"pdh": other.PDH}, ErrSignature},
		"another's PEK":          {map[string][]byte{"pek": other.PEK}, ErrSignature},
		"another's OCA":          {map[string][]byte{"oca": other.OCA}, ErrSignature},
		"another's CEK":          {map[string][]byte{"cek": other.CEK}, ErrSignature},
		"another's ASK":          {map[string][]byte{"ask": other.ASK}, ErrSignature},
		"another's ARK":          {map[string][]byte{"ark": other.ARK}, errRoot},
		"another's ASK and ARK":  {map[string][]byte{"ask": other.ASK, "ark": other.ARK}, errRoot},
		"API in the PDH":         {map[string][]byte{"pdh": flip(p.PDH, 4)}, ErrSignature},
		"reserved in the PDH":    {map[string][]byte{"pdh": flip(p.PDH, 6)}, ErrSignature},
		"end of the PDH's body":  {map[string][]byte{"pdh": flip(p.PDH, 1043)}, ErrSignature},
		"signature of the PDH":   {map[string][]byte{"pdh": flip(p.PDH, 1052)}, ErrSignature},
		"zeros for a signature":  {map[string][]byte{"pdh": zero(p.PDH, bodySize+8, 2*ecSize)}, ErrSignature},
		"r = 0":                  {map[string][]byte{"pdh": zero(p.PDH, bodySize+8, ecSize)}, ErrSignature},
		"s = 0":                  {map[string][]byte{"pdh": zero(p.PDH, bodySize+8+ecSize, ecSize)}, ErrSignature},
		"PEK as its own OCA":     {map[string][]byte{"oca": put32(p.PEK, offUsage, uint32(OCA))}, ErrSignature},
		"OCA as the CEK":         {map[string][]byte{"cek": put32(p.OCA, offUsage, uint32(CEK))}, ErrCEK},
		"signer of the PDH":      {map[string][]byte{"pdh": flip(p.PDH, 1044)}, ErrSignature},
		"algorithm of signature": {map[string][]byte{"pdh": flip(p.PDH, 1048)}, ErrSignature},
		"OCA's name on the PEK":  {map[string][]byte{"pek": flip(p.PEK, 1052)}, ErrSignature},
		"CEK's name on the PEK":  {map[string][]byte{"pek": flip(p.PEK, 1572)}, ErrSignature},
		"OCA's own name":         {map[string][]byte{"oca": flip(p.OCA, 1052)}, ErrSignature},
		"AMD's name on the CEK":  {map[string][]byte{"cek": flip(p.CEK, 1052)}, ErrSignature},
		"ID of the ASK":          {map[string][]byte{"ask": flip(p.ASK, 5)}, ErrSignature},
		"signer of the ASK":      {map[string][]byte{"ask": flip(p.ASK, 20)}, ErrSignature},
		"signature of the ASK":   {map[string][]byte{"ask": flip(p.ASK, 64+512)}, ErrSignature},
		"exponent of the ARK":    {map[string][]byte{"ark": flip(p.ARK, 65)}, errRoot},
	} {
		files := maps.Clone(good)
		maps.Copy(files, tc.change)
		var b Bundle
		for _, f := range files {
			if f == nil {
				continue
			}
			if err := b.Add(f); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if pdh, _, err := b.Verify(rootsOf(t, p)); !errors.Is(err, tc.want) || (pdh != nil) != (tc.want == nil) {
			t.Errorf("%s: Verify error = %v; want %v", name, err, tc.want)
		}
	}
}

// The known roots are AMD's: a platform of another authority is none of them.
func TestAMDRoots(t *testing.T) {
	roots, err := AMDRoots("")
	if err != nil {
		t.Fatal(err)
	}
	if len(roots.arks) != 5 || len(roots.asks) != 3 {
		t.Errorf("%d root and %d signing keys; want 5 and 3", len(roots.arks), len(roots.asks))
	}
	p := newPlatform(t, 2048)
	var b Bundle
	if err := b.Add(slices.Concat(p.PDH, p.PEK, p.OCA, p.CEK)); err != nil {
		t.Fatal(err)
	}
	// An RSA key of 2048 bits is of none of the three built-in generations.
	if _, _, err := b.Verify(roots); !errors.Is(err, ErrSignature) {
		t.Errorf("Verify without AMD's certificates: %v; want ErrSignature", err)
	}
	if err := b.Add(slices.Concat(p.ASK, p.ARK)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Verify(roots); !errors.Is(err, errRoot) {
		t.Errorf("Verify with an unknown root: %v; want errRoot", err)
	}
	if roots, err = AMDRoots(strings.ToUpper(p.Root)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Verify(roots); err != nil {
		t.Errorf("Verify with a root that was chosen: %v", err)
	}
}

func TestOwner(t *testing.T) {
	key, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Owner(key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.ECDH(); err != nil || !got.Equal(key.PublicKey()) {
		t.Errorf("ECDH = %v, %v; want the key", got, err)
	}
	for name, other := range map[string][]byte{
		"another usage": put32(b, offUsage, uint32(PEK)), "a key for signatures": put32(b, offAlgo, uint32(ecdsaKey)),
	} {
		if c, err = Parse(other); err != nil {
			t.Fatal(name, err)
		}
		if _, err := c.ECDH(); !errors.Is(err, ErrFormat) {
			t.Errorf("ECDH of %s: %v; want ErrFormat", name, err)
		}
	}
	p256, _ := ecdh.P256().GenerateKey(rand.Reader)
	if _, err := Owner(p256.PublicKey()); err == nil {
		t.Error("Owner took a key of P-256")
	}
}

// zero returns a copy with n zeros in it.
func zero(b []byte, at, n int) []byte {
	b = slices.Clone(b)
	clear(b[at:][:n])
	return b
}

// put32 changes a number in a copy.
func put32(b []byte, at int, v uint32) []byte {
	b = slices.Clone(b)
	binary.LittleEndian.PutUint32(b[at:], v)
	return b
}

// seeds are bundles by what is wrong with them.
func seeds(t testing.TB) map[string][]byte {
	p := newPlatform(t, 2048)
	return map[string][]byte{
		"good":                    p.chain(),
		"PDH":                     p.PDH,
		"CA":                      slices.Concat(p.ASK, p.ARK),
		"base64":                  []byte(base64.StdEncoding.EncodeToString(p.PDH)),
		"bad: empty":              nil,
		"bad: text":               []byte("pdh"),
		"bad: cut":                p.PDH[:2083],
		"bad: cut early":          p.PDH[:11],
		"bad: more":               append(slices.Clone(p.PDH), 1),
		"bad: version":            put32(p.PDH, 0, 0x201),
		"bad: curve":              put32(p.PDH, 16, 1),
		"bad: no point":           put32(p.PDH, 20, 0),
		"bad: long x":             put32(p.PDH, 20+48, 1),
		"bad: algorithm":          put32(p.PDH, 12, 0x1000),
		"bad: RSA size":           put32(p.PDH, 12, 1),
		"bad: ASK cut":            p.ASK[:64+512],
		"bad: ASK key cut":        p.ASK[:64+511],
		"bad: ASK usage":          put32(p.ASK, 36, 0x14),
		"bad: ASK size":           put32(p.ASK, 60, 4096),
		"bad: ASK size of 0":      put32(put32(p.ASK, 60, 0), 56, 0),
		"bad: ASK exponent even":  put32(p.ASK, 64, 0x10000),
		"bad: ASK exponent large": put32(p.ASK, 68, 1),
		"bad: too long":           make([]byte, MaxFile+1),
		"bad: two keys":           slices.Concat(p.PDH, put32(p.PDH, 4, 1)),
	}
}

// TestFuzzBundleSeeds checks that the seeds reach every end of the parsers.
func TestFuzzBundleSeeds(t *testing.T) {
	for name, data := range seeds(t) {
		var b Bundle
		err := b.Add(data)
		if bad := strings.HasPrefix(name, "bad"); bad != (err != nil) {
			t.Errorf("%s: Add error = %v", name, err)
		}
		if err != nil && !errors.Is(err, ErrFormat) && !strings.Contains(err.Error(), "different keys") {
			t.Errorf("%s: Add error = %v; want ErrFormat, or two keys", name, err)
		}
	}
}

func FuzzBundle(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
	}
	roots, err := AMDRoots("")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var b Bundle
		if b.Add(data) == nil {
			if _, _, err := b.Verify(roots); err == nil {
				t.Error("a chain that AMD never signed was taken")
			}
		}
	})
}
