package main

import (
	"fmt"
	"sync"
	"time"
)

// How often progress is shown: on a terminal, and to a program.
const (
	showEvery = 200 * time.Millisecond
	tellEvery = time.Second
)

// progress shows how far long work has come: on a terminal as a line that
// changes, to a program that asks for it as events, one JSON object a line,
// and to nobody else. A ticker does, so that a silent step is heard of too.
type progress struct {
	app   *app
	heard bool // somebody reads it

	mu    sync.Mutex
	now   event
	begin time.Time     // of the step
	shown bool          // there is a line to be cleared
	quit  chan struct{} // ends the ticker; nil when it has ended
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
// or when events are asked for. The caller ends it.
func (a *app) newProgress() *progress {
	p := &progress{app: a, heard: terminal(a.stderr) || a.json, quit: make(chan struct{})}
	every := showEvery
	if a.json {
		every = tellEvery
	}
	go p.tick(time.NewTicker(every), p.quit)
	return p
}

func (p *progress) tick(t *time.Ticker, quit <-chan struct{}) {
	defer t.Stop()
	for {
		select {
		case <-quit:
			return
		case <-t.C:
			p.mu.Lock()
			p.show()
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
	p.now, p.begin = event{Event: "progress", Step: step}, time.Now()
	p.show()
}

// At notes how much of the step is done, and shows its end.
func (p *progress) At(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Done, p.now.Total = done, total
	if done == total && total > 0 {
		p.show()
	}
}

// show says where the step is.
func (p *progress) show() {
	if !p.heard || p.now.Step == "" {
		return
	}
	e := p.now
	if e.spent = time.Since(p.begin); e.spent > 0 && e.Done > 0 {
		e.Rate = float64(e.Done) / e.spent.Seconds()
		e.Left = max(0, float64(e.Total-e.Done)/e.Rate)
	}
	if p.app.json {
		printLine(p.app.stderr, e)
		return
	}
	p.shown = true
	fmt.Fprintf(p.app.stderr, "\r\033[K%s", e)
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
		fmt.Fprint(p.app.stderr, "\r\033[K")
		p.shown = false
	}
}

// end says nothing more. It may be called twice.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.heard = false
	if p.quit != nil {
		close(p.quit)
		p.quit = nil
	}
}
