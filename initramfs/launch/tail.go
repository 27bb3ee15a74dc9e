package launch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// errRun is what a QEMU that did not start, or that failed, comes to.
var errRun = errors.New("cannot run QEMU")

const (
	tailBytes = 16 << 10
	tailLines = 5
)

// tail keeps the end of what is written to it.
type tail []byte

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	*t = (*t)[max(0, len(*t)-tailBytes):]
	return len(b), nil
}

// failed returns the error of a process that ended with err, with its last
// lines. Warnings, of which TCG has dozens, are left out where there is
// anything else.
func (t tail) failed(err error) error {
	lines := strings.FieldsFunc(string(t), func(r rune) bool { return r == '\n' || r == '\r' })
	others := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.Contains(line, ": warning: ") })
	if len(others) > 0 {
		lines = others
	}
	text := strings.Join(lines[max(0, len(lines)-tailLines):], "; ")
	if text == "" {
		return fmt.Errorf("%w: %w", errRun, err)
	}
	return fmt.Errorf("%w: %w: %s", errRun, err, text)
}
