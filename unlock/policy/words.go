package policy

import "strings"

// word is one parameter of the command line.
type word struct {
	name, value string
}

// words splits a command line as the kernel's next_arg does (lib/cmdline.c):
// at white space outside double quotes, up to a bare "--". A quote before the
// name or around the value is dropped; one elsewhere stays, and then no strict
// value parser accepts it.
func words(line string) []word {
	var out []word
	for line = trimSpace(line); line != ""; line = trimSpace(line) {
		end, quoted := 0, false
		for end < len(line) && (quoted || !isSpace(line[end])) {
			if line[end] == '"' {
				quoted = !quoted
			}
			end++
		}
		w := parseWord(line[:end])
		if w == (word{name: "--"}) {
			break
		}
		out = append(out, w)
		line = line[end:]
	}
	return out
}

func parseWord(s string) word {
	if rest, ok := strings.CutPrefix(s, `"`); ok {
		s = strings.TrimSuffix(rest, `"`)
	}
	name, value, _ := strings.Cut(s, "=")
	if rest, ok := strings.CutPrefix(value, `"`); ok {
		value = strings.TrimSuffix(rest, `"`)
	}
	return word{name, value}
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func trimSpace(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	return s
}
