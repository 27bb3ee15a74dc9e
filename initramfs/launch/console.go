package launch

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"

	"cocoroot/unlock/fatal/codes"
)

// maxLine is the number of bytes of a console line that are looked at.
const maxLine = 8 << 10

var (
	panicLine = regexp.MustCompile(`Kernel panic - not syncing.*`)
	// edk2's boot manager prints in the console's own style; this project's
	// firmware prints one line, why it hangs.
	firmwareLine = regexp.MustCompile(`BdsDxe: .*|^` + ownLine + `.*`)
	controls     = regexp.MustCompile(`\x1b\[[0-9;?=]*[@-~]|\p{Cc}`)
)

// ownLine is how the only line of this project's firmware begins.
const ownLine = "cocoroot firmware: "

// refused reports whether a firmware that prints this line boots nothing any
// more.
func refused(line string) bool {
	return strings.HasPrefix(line, "BdsDxe: No bootable option") || strings.HasPrefix(line, ownLine)
}

// observer reads along on the console. What it sees is the guest's to choose.
type observer struct {
	out     io.Writer     // nil discards
	started chan struct{} // closed at the first byte
	nothing chan struct{} // closed when the firmware has nothing to boot

	mu     sync.Mutex
	seen   Outcome
	line   []byte // the line so far, at most maxLine bytes
	outErr error  // of out; it gets nothing more
}

func newObserver(out io.Writer) *observer {
	if out == nil {
		out = io.Discard
	}
	return &observer{out: out, started: make(chan struct{}), nothing: make(chan struct{})}
}

// Write implements io.Writer. It takes everything, also when out does not: a
// guest must not hang because nobody watches.
func (o *observer) Write(b []byte) (int, error) {
	o.observe(b)
	if o.failure() == nil {
		if _, err := o.out.Write(b); err != nil {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.outErr = err
		}
	}
	return len(b), nil
}

func (o *observer) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outErr
}

func (o *observer) observe(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen.Bytes == 0 && len(b) > 0 {
		close(o.started)
	}
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

// endLine looks at the line and forgets it.
func (o *observer) endLine() {
	text := strings.ToValidUTF8(string(o.line), "\uFFFD")
	text = strings.TrimSpace(controls.ReplaceAllString(text, ""))
	o.line = o.line[:0]
	if text == "" {
		return
	}
	if fw := firmwareLine.FindString(text); fw != "" && !o.seen.Spoke {
		if refused(fw) && !refused(o.seen.Firmware) {
			close(o.nothing)
		}
		o.seen.Firmware = fw
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

// why returns the reason that the firmware gives for booting nothing, or the
// one that it must be when it gives none.
func (o *observer) why() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if reason, ok := strings.CutPrefix(o.seen.Firmware, ownLine); ok {
		return reason
	}
	return "no hash in the table fits, or the firmware has no measured direct boot"
}

// outcome returns what was seen, a last line without end included.
func (o *observer) outcome() (Outcome, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLine()
	return o.seen, o.outErr
}
