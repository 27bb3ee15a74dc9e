package launch

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"cocoroot/unlock/fatal/codes"
)

// maxLine is the number of bytes of a console line that are looked at.
const maxLine = 8 << 10

var (
	panicLine = regexp.MustCompile(`Kernel panic - not syncing.*`)
	// edk2's boot manager prints in the console's own style; this project's
	// firmware prints one line, why it hangs.
	firmwareLine = regexp.MustCompile(`BdsDxe: .*|^` + ownLine + `.*`)
)

// ownLine is how the only line of this project's firmware begins.
const ownLine = "cocoroot firmware: "

// observer reads along on the console. What it sees is the guest's to choose.
type observer struct {
	out     io.Writer   // nil discards
	refused func(error) // called when the firmware boots nothing any more

	mu     sync.Mutex
	seen   Outcome
	line   []byte // the line so far, at most maxLine bytes
	outErr error  // of out; it gets nothing more
}

// Write implements io.Writer. It takes everything, also when out does not: a
// guest must not hang because nobody watches.
func (o *observer) Write(b []byte) (int, error) {
	o.observe(b)
	if o.out == nil {
		return len(b), nil
	}
	if _, err := o.out.Write(b); err != nil { // without the lock: it may take its time
		o.mu.Lock()
		defer o.mu.Unlock()
		o.outErr, o.out = err, nil
	}
	return len(b), nil
}

func (o *observer) observe(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen.Bytes += int64(len(b))
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte("\n"))
		o.line = append(o.line, part[:min(len(part), maxLine-len(o.line))]...)
		if ended {
			o.endLine()
		}
		b = rest
	}
}

// silent reports whether nothing has come.
func (o *observer) silent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen.Bytes == 0
}

// endLine looks at the line and forgets it.
func (o *observer) endLine() {
	text := strings.TrimSpace(plain(o.line))
	o.line = o.line[:0]
	if text == "" {
		return
	}
	if fw := firmwareLine.FindString(text); fw != "" && !o.seen.Spoke {
		o.seen.Firmware = fw
		if why := refusal(fw); why != "" {
			o.refused(fmt.Errorf("%w: %s", ErrNotBooted, why))
		}
		return
	}
	o.seen.Spoke = true
	if code, what, ok := codes.ParseLine(text); ok && o.seen.Fatal == nil {
		o.seen.Fatal = &Fatal{Code: code, Text: what}
	}
	if p := panicLine.FindString(text); p != "" && o.seen.Panic == "" {
		o.seen.Panic = p
	}
}

// refusal returns why a firmware that prints this line boots nothing any more,
// in its words or what it must be; empty for other lines.
func refusal(line string) string {
	if reason, ok := strings.CutPrefix(line, ownLine); ok {
		return reason
	}
	if strings.HasPrefix(line, "BdsDxe: No bootable option") {
		return "no hash in the table fits, or the firmware has no measured direct boot"
	}
	return ""
}

// outcome returns what was seen, a last line without end included.
func (o *observer) outcome() (Outcome, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLine()
	return o.seen, o.outErr
}

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
