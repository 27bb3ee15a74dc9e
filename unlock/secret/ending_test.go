package secret

import "testing"

func TestEnding(t *testing.T) {
	for key, want := range map[string]string{
		"":           "",
		"\x00":       "",
		"key":        "",
		"key\x00":    "",
		"k\ney":      "",
		"key\n":      "a newline",
		"key\r\n":    "a newline",
		"key\r":      "a newline",
		"key\n\x00":  "a newline",
		"\n":         "a newline",
		"key ":       "a blank",
		"key\t":      "a blank",
		"key\n\x00!": "",
	} {
		if got := Ending([]byte(key)); got != want {
			t.Errorf("Ending(%q) = %q; want %q", key, got, want)
		}
	}
}
