package launch

import (
	"fmt"
	"strings"
	"sync"
)

// QEMUError is a QEMU that did not start, or that failed.
type QEMUError struct {
	Err    error  // how the process ended
	Stderr string // its last words, a few lines
}

// Error implements error.
func (e *QEMUError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("cannot run QEMU: %v", e.Err)
	}
	return fmt.Sprintf("cannot run QEMU: %v: %s", e.Err, e.Stderr)
}

// Unwrap returns how the process ended.
func (e *QEMUError) Unwrap() error { return e.Err }

const (
	tailBytes = 16 << 10
	tailLines = 5
)

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if drop := len(t.b) - tailBytes; drop > 0 {
		t.b = append(t.b[:0], t.b[drop:]...)
	}
	return len(b), nil
}

// words returns the last lines. Warnings, of which TCG has dozens, are left
// out where there is anything else.
func (t *tail) words() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var warnings, others []string
	for line := range strings.Lines(string(t.b)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case strings.Contains(line, ": warning: "):
			warnings = append(warnings, line)
		default:
			others = append(others, line)
		}
	}
	if len(others) == 0 {
		others = warnings
	}
	return strings.Join(others[max(0, len(others)-tailLines):], "; ")
}
