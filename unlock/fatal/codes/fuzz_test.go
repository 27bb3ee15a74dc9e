package codes

import (
	"strings"
	"testing"

	"cocoroot/unlock/fatal"
)

var lineSeeds = []string{
	"cocoroot: FATAL VERITY: block 7", "[    1.0] half a linecocoroot: FATAL a-1: b: c", "cocoroot: FATAL X: cocoroot: FATAL Y: z",
	"cocoroot: FATAL two words: x", "cocoroot: FATAL X", "cocoroot: FATAL : x",
}

// FuzzParseLine: the console is the host's to forge.
func FuzzParseLine(f *testing.F) {
	for _, s := range lineSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, text, ok := ParseLine(line)
		if !ok {
			if c != "" || text != "" {
				t.Errorf("ParseLine(%q) = %q, %q beside a refusal", line, c, text)
			}
			return
		}
		if !strings.HasSuffix(line, fatal.Prefix+string(c)+": "+text) || len(c) == 0 || len(c) > maxCode {
			t.Errorf("ParseLine(%q) = %q, %q, which is not its end", line, c, text)
		}
		// What init prints of it is one line, and says the same code.
		again, _, ok := ParseLine(fatal.Line(c, text))
		if !ok || again != c || strings.ContainsAny(fatal.Line(c, text), "\n\r\x1b") {
			t.Errorf("ParseLine(Line(%q, %q)) = %q, %v", c, text, again, ok)
		}
	})
}

func TestFuzzParseLineSeeds(t *testing.T) {
	for i, s := range lineSeeds {
		if _, _, ok := ParseLine(s); ok != (i < 3) {
			t.Errorf("ParseLine(%q) = %v; want the first three accepted", s, ok)
		}
	}
}
