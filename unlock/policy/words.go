package policy

import "strings"

// word is one parameter of the command line.
type word struct {
	name, value string
}

// space is the white space that Parse lets through. The kernel takes more for it
// (lib/ctype.c).
const space = " \t\n"

// words splits a command line as the kernel's next_arg does (lib/cmdline.c):
// at white space outside double quotes, up to a bare "--". A quote before the
// name or around the value is dropped; one elsewhere stays, and then no strict
// value parser accepts it.
func words(line string) []word {
	var out []word
	for line = strings.TrimLeft(line, space); line != ""; line = strings.TrimLeft(line, space) {
		end, quoted := 0, false
		for end < len(line) && (quoted || strings.IndexByte(space, line[end]) < 0) {
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
