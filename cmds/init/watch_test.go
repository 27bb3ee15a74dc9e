package main_test

import (
	"bytes"
	"sync"
	"time"
)

// watch sees a console as it comes.
type watch struct {
	mu    sync.Mutex
	text  []byte
	wants map[string]chan time.Time
}

// on returns a channel that gets the time at which the text is first there.
func (w *watch) on(text string) <-chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wants == nil {
		w.wants = make(map[string]chan time.Time)
	}
	w.wants[text] = make(chan time.Time, 1)
	return w.wants[text]
}

// Write implements io.Writer.
func (w *watch) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b...)
	for text, seen := range w.wants {
		if bytes.Contains(w.text, []byte(text)) {
			seen <- time.Now()
			delete(w.wants, text)
		}
	}
	return len(b), nil
}

// has reports whether the text is there.
func (w *watch) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.text, []byte(text))
}

// all returns the whole text so far.
func (w *watch) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.text)
}
