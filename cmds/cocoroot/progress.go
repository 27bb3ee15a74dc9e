package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
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
	w     io.Writer // nil: say nothing
	app   *app
	step  string
	begin time.Time // of the step
	last  time.Time // when something was said
	shown bool
}

// event is what a program is told. Sizes are in bytes, times in seconds.
type event struct {
	Event string  `json:"event"` // always "progress"
	Step  string  `json:"step"`
	Done  int64   `json:"done"`
	Total int64   `json:"total"` // 0: not known
	Rate  float64 `json:"rate"`  // bytes a second since the step began
	Left  float64 `json:"left"`  // seconds; 0 when there is no rate yet
}

// newProgress returns one that speaks on standard error when that is a terminal,
// or when events are asked for.
func (a *app) newProgress() *progress {
	p := &progress{app: a, w: a.stderr}
	if !a.json && !isTerminal(p.w) {
		p.w = nil
	}
	return p
}

// Warn clears the line, and warns.
func (p *progress) Warn(format string, args ...any) {
	p.end()
	p.app.warn(format, args...)
}

// Begins says which step begins.
func (p *progress) Begins(step string) {
	p.step, p.begin, p.last = step, time.Now(), time.Time{}
	p.At(0, 0)
}

// At says how much of the step is done, now and then, and at its end.
func (p *progress) At(done, total int64) {
	now := time.Now()
	every := showEvery
	if p.app.json {
		every = tellEvery
	}
	if p.w == nil || now.Sub(p.last) < every && (done != total || total == 0) {
		return
	}
	p.last = now
	e := event{Event: "progress", Step: p.step, Done: done, Total: total}
	if spent := now.Sub(p.begin).Seconds(); spent > 0 && done > 0 {
		e.Rate = float64(done) / spent
		e.Left = float64(total-done) / e.Rate
	}
	if p.app.json {
		line, _ := json.Marshal(e) // numbers and words that are ours
		p.w.Write(append(line, '\n'))
		return
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r\033[K%s", e)
}

// String returns the event as people read it.
func (e event) String() string {
	if e.Total == 0 {
		return e.Step
	}
	text := fmt.Sprintf("%s: %d of %d MiB, %d %%", e.Step, e.Done>>20, e.Total>>20, e.Done*100/e.Total)
	if e.Rate > 0 {
		left := time.Duration(e.Left * float64(time.Second)).Round(time.Second)
		text += fmt.Sprintf(", %.0f MiB/s, %s left", e.Rate/(1<<20), left)
	}
	return text
}

// end clears the line.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\033[K")
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
