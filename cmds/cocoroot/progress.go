package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How often progress is shown: on a terminal, and to a program.
const (
	showEvery = 200 * time.Millisecond
	tellEvery = time.Second
)

// progress shows how far long work has come: on a terminal as a line that
// changes, to a program that asks for it as events, one JSON object a line,
// and to nobody else.
type progress struct {
	w   io.Writer // nil: say nothing
	app *app

	mu          sync.Mutex    // for the ticker
	quit        chan struct{} // ends the ticker
	step        string
	done, total int64
	begin       time.Time // of the step
	last        time.Time // when something was said
	shown       bool
}

// event is what a program is told. Sizes are in bytes, times in seconds.
type event struct {
	Event string  `json:"event"` // always "progress"
	Step  string  `json:"step"`
	Done  int64   `json:"done"`
	Total int64   `json:"total"` // 0: not known
	Rate  float64 `json:"rate"`  // bytes a second since the step began
	Left  float64 `json:"left"`  // seconds; 0 when there is no rate yet
	spent time.Duration
}

// newProgress returns one that speaks on standard error when that is a terminal,
// or when events are asked for; then also while a step says nothing itself. The
// caller ends it.
func (a *app) newProgress() *progress {
	p := &progress{app: a, w: a.stderr}
	if !a.json && !isTerminal(p.w) {
		p.w = nil
		return p
	}
	p.quit = make(chan struct{})
	go p.tick(p.quit)
	return p
}

func (p *progress) tick(quit <-chan struct{}) {
	t := time.NewTicker(showEvery)
	defer t.Stop()
	for {
		select {
		case <-quit:
			return
		case <-t.C:
			p.mu.Lock()
			if p.step != "" {
				p.show(false)
			}
			p.mu.Unlock()
		}
	}
}

// Warn clears the line, then warns.
func (p *progress) Warn(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.app.warn(format, args...)
}

// Begins says which step begins.
func (p *progress) Begins(step string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.begin, p.done, p.total = step, time.Now(), 0, 0
	p.show(true)
}

// At says how much of the step is done, now and then, and at its end.
func (p *progress) At(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	p.show(done == total && total > 0)
}

// show says where the step is, when it is time to or must be.
func (p *progress) show(must bool) {
	now, every := time.Now(), showEvery
	if p.app.json {
		every = tellEvery
	}
	if p.w == nil || !must && now.Sub(p.last) < every-showEvery/2 {
		return
	}
	p.last = now
	e := event{Event: "progress", Step: p.step, Done: p.done, Total: p.total}
	if e.spent = now.Sub(p.begin); e.spent > 0 && p.done > 0 {
		e.Rate = float64(p.done) / e.spent.Seconds()
		e.Left = max(0, float64(p.total-p.done)/e.Rate)
	}
	if p.app.json {
		printLine(p.w, e)
		return
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r\033[K%s", e)
}

// String returns the event as people read it.
func (e event) String() string {
	switch {
	case e.Total == 0 && e.spent < time.Second:
		return e.Step
	case e.Total == 0 && e.Done == 0:
		return fmt.Sprintf("%s: %s", e.Step, e.spent.Round(time.Second))
	case e.Total == 0:
		return fmt.Sprintf("%s: %d MiB, %s", e.Step, e.Done>>20, e.spent.Round(time.Second))
	}
	text := fmt.Sprintf("%s: %d of %d MiB, %d %%", e.Step, e.Done>>20, e.Total>>20, e.Done*100/e.Total)
	if e.Rate > 0 {
		left := time.Duration(e.Left * float64(time.Second)).Round(time.Second)
		text += fmt.Sprintf(", %.0f MiB/s, %s left", e.Rate/(1<<20), left)
	}
	return text
}

// clear clears the line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\033[K")
		p.shown = false
	}
}

// end says nothing more. It may be called twice.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.step = ""
	if p.quit != nil {
		close(p.quit)
		p.quit = nil
	}
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
