package launch

import (
	"io"
	"regexp"
	"strings"
	"unicode"
)

// sequence is what a terminal acts on (ECMA-48, 5.3 to 5.6), up to the line's
// end at most: control sequences (ESC [), strings such as titles up to BEL or
// ESC \, and other escapes.
var sequence = regexp.MustCompile(`(?m)\x1b+(\[[^@-~\n]*[@-~]?|[\]PX^_].*?(\x07|\x1b\\|$)|[ -/]*[^ -/\n]?)`)

// plain returns the text of a line of a console. What makes a terminal do
// something is left out: escape sequences, control characters and what does not
// print. So neither the host nor the guest can rewrite what the user sees,
// answer for the user's terminal, or hide text.
func plain(line []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, sequence.ReplaceAllString(string(line), ""))
}

// Plain passes on a console line by line, as plain text.
type Plain struct {
	Out  io.Writer
	line []byte // what has come of a line, less than maxLine bytes
}

// Write implements io.Writer. An error is Out's.
func (p *Plain) Write(b []byte) (int, error) {
	for _, c := range b {
		p.line = append(p.line, c)
		if c == '\n' || len(p.line) == maxLine {
			if err := p.Close(); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

// Close passes on what there is of a line without end.
func (p *Plain) Close() error {
	_, err := io.WriteString(p.Out, plain(p.line))
	p.line = p.line[:0]
	return err
}
