package main

import (
	"context"
	"os"
	"sync"
)

// scratch is what must not outlast the process: files without their final
// name, and folders. A verb removes its own; this is for the interrupt that
// finds a verb waiting for a file that nobody writes to.
type scratch struct {
	mu    sync.Mutex
	names []string
}

type scratchKey struct{}

func withScratch(ctx context.Context, s *scratch) context.Context {
	return context.WithValue(ctx, scratchKey{}, s)
}

// scratchOf returns the process's, or nil.
func scratchOf(ctx context.Context) *scratch {
	s, _ := ctx.Value(scratchKey{}).(*scratch)
	return s
}

// add notes a temporary name, which nothing else ever has.
func (s *scratch) add(name string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
}

// remove removes all of it. What was renamed or removed since is not there.
func (s *scratch) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.names {
		os.RemoveAll(name)
	}
}
