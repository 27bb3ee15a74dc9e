package codes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/fatal"
)

func TestLineRoundTrip(t *testing.T) {
	line := fatal.Line(fatal.Verity, "block 7\nis not \x1b[31mthe\u009b one")
	if strings.ContainsAny(line, "\n\x1b") {
		t.Errorf("Line = %q; want one line without escape codes", line)
	}
	c, text, ok := ParseLine(line)
	if !ok || c != fatal.Verity || text != "block 7 is not [31mthe one" {
		t.Errorf("ParseLine(%q) = %q, %q, %v", line, c, text, ok)
	}
	for _, s := range []string{"", "cocoroot: FATAL", "cocoroot: FATAL X", "cocoroot: step", "cocoroot: FATAL X Y: z"} {
		if _, _, ok := ParseLine(s); ok {
			t.Errorf("ParseLine(%q) accepted", s)
		}
	}
}

func TestREADMEHasTheTable(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(oracle.Repository(t), "cmds/init/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[fatal.Code]bool)
	for _, e := range Table() {
		if seen[e.Code] {
			t.Errorf("%s appears twice in the table", e.Code)
		}
		seen[e.Code] = true
		if row := fmt.Sprintf("| `%s` | %s |", e.Code, e.Meaning); !strings.Contains(string(readme), row) {
			t.Errorf("cmds/init/README.md lacks the row %s", row)
		}
	}
	_, rows, _ := strings.Cut(string(readme), "\n## Codes\n")
	rows, _, _ = strings.Cut(rows, "\n## ")
	if n := strings.Count(rows, "\n| `"); n != len(Table()) {
		t.Errorf("cmds/init/README.md has %d codes; there are %d", n, len(Table()))
	}
}
