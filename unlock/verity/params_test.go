package verity

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

const (
	root32 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	salt32 = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
)

var validParams = []string{
	"verity:sha256:4096:1:-:" + root32,
	"verity:sha256:4096:513:" + salt32 + ":" + root32,
	"verity:sha256:4096:4294967296:00:" + root32,
	"verity:sha256:4096:128:" + strings.Repeat("5a", MaxSaltSize) + ":" + root32,
}

func TestParseRoundTrip(t *testing.T) {
	for _, s := range validParams {
		p, err := Parse(s)
		if err != nil {
			t.Errorf("Parse(%q) = %v", s, err)
			continue
		}
		if p.String() != s {
			t.Errorf("Parse(%q).String() = %q", s, p)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var q Params
		if err := json.Unmarshal(text, &q); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("JSON round trip of %q = %v, %v", s, q, err)
		}
	}
}

func TestParseFields(t *testing.T) {
	p, err := Parse(validParams[1])
	if err != nil {
		t.Fatal(err)
	}
	if p.DataBlocks != 513 || len(p.Salt) != 32 || p.Salt[0] != 0xa0 || p.RootHash[1] != 0x11 {
		t.Errorf("Parse(%q) = %+v", validParams[1], p)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"empty":              "",
		"another word":       "Verity:sha256:4096:1:-:" + root32,
		"another hash":       "verity:sha1:4096:1:-:" + root32,
		"another block size": "verity:sha256:512:1:-:" + root32,
		"no blocks":          "verity:sha256:4096:0:-:" + root32,
		"too many blocks":    "verity:sha256:4096:4294967297:-:" + root32,
		"64-bit overflow":    "verity:sha256:4096:18446744073709551617:-:" + root32,
		"sign":               "verity:sha256:4096:+1:-:" + root32,
		"negative":           "verity:sha256:4096:-1:-:" + root32,
		"leading zero":       "verity:sha256:4096:01:-:" + root32,
		"hex blocks":         "verity:sha256:4096:0x1:-:" + root32,
		"empty salt":         "verity:sha256:4096:1::" + root32,
		"odd salt":           "verity:sha256:4096:1:abc:" + root32,
		"upper-case salt":    "verity:sha256:4096:1:AB:" + root32,
		"salt too long":      "verity:sha256:4096:1:" + strings.Repeat("5a", MaxSaltSize+1) + ":" + root32,
		"short root":         "verity:sha256:4096:1:-:" + root32[2:],
		"long root":          "verity:sha256:4096:1:-:" + root32 + "00",
		"upper-case root":    "verity:sha256:4096:1:-:" + strings.ToUpper(root32),
		"no root":            "verity:sha256:4096:1:-:",
		"one field more":     "verity:sha256:4096:1:-:" + root32 + ":",
		"one field less":     "verity:sha256:4096:1:" + root32,
		"space":              " verity:sha256:4096:1:-:" + root32,
		"newline":            "verity:sha256:4096:1:-:" + root32 + "\n",
		"endless":            "verity:sha256:4096:1:-:" + strings.Repeat("0", 2000),
	} {
		if p, err := Parse(s); !errors.Is(err, errParams) || !reflect.DeepEqual(p, Params{}) {
			t.Errorf("%s: Parse = %+v, %v; want nothing and errParams", name, p, err)
		}
	}
	p, _ := Parse(validParams[0])
	before := p
	if err := p.UnmarshalText([]byte("nonsense")); !errors.Is(err, errParams) || !reflect.DeepEqual(p, before) {
		t.Errorf("UnmarshalText(nonsense) = %v and changed the value to %+v", err, p)
	}
}

// kernelTreeBlocks counts as verity_ctr does, with shifts: the number of
// levels first, then the blocks of each from the top.
func kernelTreeBlocks(dataBlocks uint64) uint64 {
	const bits = 7 // log2(4096/32)
	levels := 0
	for bits*levels < 64 && (dataBlocks-1)>>(bits*levels) != 0 {
		levels++
	}
	var total uint64
	for i := levels - 1; i >= 0; i-- {
		shift := (i + 1) * bits
		total += (dataBlocks + 1<<shift - 1) >> shift
	}
	return total
}

func TestTreeBlocks(t *testing.T) {
	for n, want := range map[uint64]uint64{
		1: 0, 2: 1, 127: 1, 128: 1, 129: 3, 16384: 129, 16385: 129 + 3,
		MaxDataBlocks: 1<<25 + 1<<18 + 1<<11 + 1<<4 + 1,
	} {
		if got := (Params{DataBlocks: n}).TreeBlocks(); got != want {
			t.Errorf("TreeBlocks of %d = %d; want %d", n, got, want)
		}
	}
	for n := uint64(1); n < 1<<22; n += 1 + n/97 {
		if got, want := (Params{DataBlocks: n}).TreeBlocks(), kernelTreeBlocks(n); got != want {
			t.Fatalf("TreeBlocks of %d = %d; want %d", n, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	p := Params{DataBlocks: 129}
	if got := p.DataSize(); got != 129*4096 {
		t.Errorf("DataSize = %d", got)
	}
	if got := p.HashStart(); got != 130 {
		t.Errorf("HashStart = %d; want 130", got)
	}
	if got := p.DeviceSize(); got != (129+1+3)*4096 {
		t.Errorf("DeviceSize = %d; want %d", got, (129+1+3)*4096)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range validParams {
		f.Add(s)
	}
	f.Add("verity:sha256:4096:01:-:" + root32)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			if !errors.Is(err, errParams) {
				t.Errorf("Parse(%q) error = %v; want errParams", s, err)
			}
			return
		}
		if p.String() != s {
			t.Errorf("Parse(%q).String() = %q", s, p)
		}
		if p.DataBlocks == 0 || p.DeviceSize() <= p.DataSize() || p.DeviceSize() > 1<<45 {
			t.Errorf("Parse(%q) has impossible sizes: %d data, %d in all", s, p.DataSize(), p.DeviceSize())
		}
		if q, err := Parse(p.String()); err != nil || q.DataBlocks != p.DataBlocks || !bytes.Equal(q.Salt, p.Salt) || q.RootHash != p.RootHash {
			t.Errorf("second Parse(%q) = %+v, %v", s, q, err)
		}
	})
}

// TestFuzzParseSeeds shows that the seeds go all the way through the parser.
func TestFuzzParseSeeds(t *testing.T) {
	if len(validParams) < 4 {
		t.Fatalf("%d seeds; want at least 4", len(validParams))
	}
	for _, s := range validParams {
		if _, err := Parse(s); err != nil {
			t.Errorf("seed %q is refused: %v", s, err)
		}
	}
}
