package main

import (
	"fmt"
	"io"
	"time"
)

// progress shows how far long work has come, on a terminal only.
type progress struct {
	w     io.Writer // nil: say nothing
	last  time.Time
	shown bool
}

func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	return &progress{w: w}
}

// say shows what is done now.
func (p *progress) say(what string) {
	if p.w == nil {
		return
	}
	fmt.Fprintf(p.w, "\r\033[K%s", what)
	p.shown = true
}

// at shows how much of it is done, a few times a second.
func (p *progress) at(what string, done, total int64) {
	if p.w == nil || total == 0 || time.Since(p.last) < 200*time.Millisecond {
		return
	}
	p.last = time.Now()
	p.say(fmt.Sprintf("%s: %d of %d MiB, %d %%", what, done>>20, total>>20, done*100/total))
}

// end clears the line.
func (p *progress) end() {
	if p.shown {
		p.say("")
	}
}
