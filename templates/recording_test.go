package templates_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
)

// TestRecording checks the README's picture: XML without scripts or links,
// which shows the demo that is in the tree and no older one.
func TestRecording(t *testing.T) {
	shown := svgLines(t, read(t, "recording/demo.svg"))
	said := regexp.MustCompile(`(?m)^echo "(demo: [^"$]*)"$`).FindAllSubmatch(read(t, "demo/init"), -1)
	if len(said) < 3 {
		t.Fatalf("demo/init says %q", said)
	}
	if shown[0] != "$ ./build.sh demo" || shown[len(shown)-1] != string(said[len(said)-1][1]) {
		t.Errorf("the recording begins with %q and ends with %q", shown[0], shown[len(shown)-1])
	}
	text := strings.Join(shown, "\n") + "\n"
	for _, line := range said {
		if !strings.Contains(text, string(line[1])+"\n") {
			t.Errorf("the recording does not show %q (./build.sh recording)", line[1])
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil || !bytes.Contains(readme, []byte("(templates/recording/demo.svg)")) {
		t.Errorf("the README does not show the recording: %v", err)
	}
	_, sample, _ := strings.Cut(string(readme), "\n    $ ./build.sh demo\n")
	sample, _, _ = strings.Cut(sample, "\n\n")
	for line := range strings.Lines(sample) {
		line = strings.TrimSpace(line)
		recorded := func(l string) bool { // which may be cut
			begin, cut := strings.CutSuffix(l, "...")
			return l == line || cut && strings.HasPrefix(line, begin)
		}
		if line != "…" && !slices.ContainsFunc(shown, recorded) {
			t.Errorf("the README shows %q, and the recording does not", line)
		}
	}
}

// TestRecordingText gives the program that draws it what a console can say.
func TestRecordingText(t *testing.T) {
	cmd := exec.Command(oracle.Tool(t, "awk"), "-f", "recording/svg.awk")
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdin = strings.NewReader("5.0\t$ <a&b>\r\n6.0\t\x1b]0;\x00é\ta\\&z\n90.0\t" + strings.Repeat("<", 200) + "\n90.1\t\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"$ <a&b>", `]0;a\&z`, strings.Repeat("<", 101) + "...", ""}
	if got := svgLines(t, out); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("svg.awk draws %q; want %q", got, want)
	}
	// 1 s, 1.5 s for the pause of 84 s, 0.1 s, and the end's 8 s.
	if !bytes.Contains(out, []byte("uncover 10.6s")) || !bytes.Contains(out, []byte("took 85 seconds")) {
		t.Errorf("the times are wrong in %s", out)
	}
}

// svgLines returns the lines of text, from top to bottom.
func svgLines(t *testing.T, svg []byte) []string {
	t.Helper()
	var lines []string
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch start.Name.Local {
		case "svg", "title", "style", "rect":
		case "text":
			var line string
			if err := d.DecodeElement(&line, &start); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		default:
			t.Errorf("the picture has a <%s>", start.Name.Local)
		}
		for _, a := range start.Attr {
			if strings.HasPrefix(a.Name.Local, "on") || strings.Contains(a.Name.Local, "href") {
				t.Errorf("<%s> has %s=%q", start.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if bytes.Contains(svg, []byte("url(")) || bytes.Contains(svg, []byte("@import")) {
		t.Error("the style has links")
	}
	if len(lines) == 0 {
		t.Fatal("the picture has no text")
	}
	return lines
}
