package files

import (
	"context"
	"os"
	"strings"
	"sync"
)

// Scratch is what must not outlast the process: files without their final
// name, and folders. A verb removes its own; this is for the interrupt that
// finds a verb waiting for a file that nobody writes to.
type Scratch struct {
	mu    sync.Mutex
	names []string
}

type scratchKey struct{}

// WithScratch returns a context that carries s.
func WithScratch(ctx context.Context, s *Scratch) context.Context {
	return context.WithValue(ctx, scratchKey{}, s)
}

// ScratchOf returns the process's, or nil.
func ScratchOf(ctx context.Context) *Scratch {
	s, _ := ctx.Value(scratchKey{}).(*Scratch)
	return s
}

// Add notes a temporary name, which nothing else ever has.
func (s *Scratch) Add(name string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
}

// Remove removes all of it. What was renamed or removed since is not there.
func (s *Scratch) Remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.names {
		os.RemoveAll(name)
	}
}

// Renamed is an error about files in a temporary folder, whose name From in its text
// says nothing to a user.
type Renamed struct {
	Err      error
	From, To string
}

// Error returns the text with To in place of From.
func (e Renamed) Error() string { return strings.ReplaceAll(e.Err.Error(), e.From, e.To) }

// Unwrap returns the error as it was.
func (e Renamed) Unwrap() error { return e.Err }
