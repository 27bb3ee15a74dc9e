package audit

import (
	"fmt"
	"strings"
)

// findPasswords finds accounts without a password: an empty second field in
// shadow(5), or in passwd(5).
func findPasswords(r *root) []string {
	var out []string
	for _, file := range []string{"etc/shadow", "etc/passwd"} {
		for _, l := range lines(r.read(file)) {
			name, rest, _ := strings.Cut(l, ":")
			if password, _, _ := strings.Cut(rest, ":"); password == "" {
				out = append(out, fmt.Sprintf("/%s: %s", file, quote(name)))
			}
		}
	}
	return out
}

// quote shows a text of the image's.
func quote(s string) string { return fmt.Sprintf("%.64q", s) }
