package launch

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"plain text\tand UTF-8: äß€😀\n":            "plain text\tand UTF-8: äß€😀\n",
		"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: x\r\n":  "BdsDxe: x\n",
		"\x1b]0;title\x07a\x1b]52;c;AAAA\x1b\\b\n": "ab\n",
		"\x1bPq#0;2\x1b\\sixel \x1b_apc\x1b\\x\n":  "sixel x\n",
		"over\rwritten\b\b\x7f\x00\x07\n":          "overwritten\n",
		"8-bit \u009b2Jx \u202ebidi\u2066\n":       "8-bit 2Jx bidi\n",
		"\x1b(Bcharset \x1b#8 \x1bc reset \x1b7\n": "charset   reset \n",
		"\x1b[31mred\x1b[0m \x1b[999\nnext\n":      "red \nnext\n",
		"\x1b]unended\nnext line\n":                "\nnext line\n",
		"\xff\xfe bad \xc3(\n":                     "\uFFFD\uFFFD bad \uFFFD(\n",
		"\x1b\x1b[Ax\n":                            "x\n",
	} {
		for _, step := range []int{1, 2, 3, 1 << 10} {
			var out bytes.Buffer
			p := &Plain{Out: &out}
			for b := []byte(in); len(b) > 0; b = b[min(step, len(b)):] {
				if n, err := p.Write(b[:min(step, len(b))]); err != nil || n != min(step, len(b)) {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
			if out.String() != want {
				t.Errorf("%q in pieces of %d = %q; want %q", in, step, out.String(), want)
			}
		}
	}
}

func FuzzPlain(f *testing.F) {
	for _, s := range plainSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := passed(b); strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }) {
			t.Errorf("%q passes as %q", b, got)
		}
	})
}

var plainSeeds = []string{"\x1b[2J", "\x1b]0;t\x07", "\x1bP\x1b\\", "\r\n\x00", "\xc2\x9b", "text"}

func passed(b []byte) string {
	var out bytes.Buffer
	p := &Plain{Out: &out}
	p.Write(b)
	p.Close()
	return out.String()
}

// The seeds reach each state, and text comes out of one.
func TestFuzzPlainSeeds(t *testing.T) {
	if got := passed([]byte(strings.Join(plainSeeds, ""))); got != "\ntext" {
		t.Errorf("the seeds pass as %q", got)
	}
}
