package fatal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

func TestLineRoundTrip(t *testing.T) {
	line := Line(Verity, "block 7\nis not \x1b[31mthe\u009b one")
	if strings.ContainsAny(line, "\n\x1b") {
		t.Errorf("Line = %q; want one line without escape codes", line)
	}
	c, text, ok := ParseLine(line)
	if !ok || c != Verity || text != "block 7 is not [31mthe one" {
		t.Errorf("ParseLine(%q) = %q, %q, %v", line, c, text, ok)
	}
	for _, s := range []string{"", "cocoroot: FATAL", "cocoroot: FATAL X", "cocoroot: step", "cocoroot: FATAL X Y: z"} {
		if _, _, ok := ParseLine(s); ok {
			t.Errorf("ParseLine(%q) accepted", s)
		}
	}
}

func TestCodeOf(t *testing.T) {
	err := fmt.Errorf("outer: %w", Errorf(LUKSKey, "inner: %w", io.EOF))
	if got := CodeOf(err, Crash); got != LUKSKey {
		t.Errorf("CodeOf = %s; want %s", got, LUKSKey)
	}
	if !errors.Is(err, io.EOF) {
		t.Error("the cause is lost")
	}
	if got := CodeOf(io.EOF, Crash); got != Crash {
		t.Errorf("CodeOf(plain) = %s; want the fallback", got)
	}
}

func TestREADMEHasTheTable(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[Code]bool)
	for _, e := range Table() {
		if seen[e.Code] {
			t.Errorf("%s stands twice in the table", e.Code)
		}
		seen[e.Code] = true
		if row := fmt.Sprintf("| `%s` | %s |", e.Code, e.Meaning); !strings.Contains(string(readme), row) {
			t.Errorf("README.md lacks the row %s", row)
		}
	}
}
