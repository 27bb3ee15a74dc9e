package unseal

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/state"
)

// ChildName is the child's argv[0].
const ChildName = "cocoroot-unseal"

// Step is a finished step and how long it took.
type Step struct {
	Name         string  `json:"name"`
	Milliseconds float64 `json:"ms"`
}

// Finished returns a step that ends now.
func Finished(name string, began time.Time) Step {
	return Step{name, float64(time.Since(began).Microseconds()) / 1000}
}

// Result is what a child has done.
type Result struct {
	Steps []Step       `json:"steps"`
	Plans []state.Plan `json:"plans,omitempty"` // for the policy's states, in their order
}

// report is what the child says at its end, in JSON on file descriptor 3.
type report struct {
	Code fatal.Code `json:"code,omitempty"` // empty: it worked
	Text string     `json:"text,omitempty"`
	Result
}

// Grace is how long a killed child may take to end.
const Grace = 5 * time.Second

const (
	reportFD = 3
	// maxReport bounds what the first process reads from the child, bytes.
	maxReport = 64 << 10
	// baseMemory is what the child may use besides half of the RAM, bytes.
	baseMemory = 64 << 20
)

// Run does the job in a child. When ctx ends the child
// is killed, and Run waits for its end, which gives its memory back, but no
// longer than Grace: a child whose disk does not answer cannot die.
func Run(ctx context.Context, job Job) (Result, error) {
	text, err := json.Marshal(job)
	if err != nil {
		return Result{}, err
	}
	reportRead, reportWrite, err := os.Pipe()
	if err != nil {
		return Result{}, err
	}
	defer reportRead.Close()
	// Nothing of a job is secret.
	child, err := os.StartProcess("/proc/self/exe", []string{ChildName, string(text)}, &os.ProcAttr{
		Dir: "/",
		// A Go traceback would show nothing of the heap, but nobody at
		// this console could use it either.
		Env:   []string{"GOTRACEBACK=none"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, reportWrite},
	})
	reportWrite.Close()
	if err != nil {
		return Result{}, fatal.Errorf(fatal.Crash, "cannot start the unsealing process: %w", err)
	}
	var result Result
	done := make(chan error, 1)
	go func() {
		var err error
		result, err = wait(child, reportRead)
		done <- err
	}()
	select {
	case err := <-done:
		return result, err
	case <-ctx.Done():
		child.Kill()
		select {
		case <-done:
		case <-time.After(Grace):
		}
		return Result{}, fatal.Errorf(fatal.Deadline, "unlocking did not end in time; the disk may not answer, or the key derivation is too costly for this machine")
	}
}

// wait reads the child's report and its end. Only a report of success and an
// exit code of 0 together are a success.
func wait(child *os.Process, from io.Reader) (Result, error) {
	text, readErr := io.ReadAll(io.LimitReader(from, maxReport))
	state, err := child.Wait()
	if err != nil {
		return Result{}, fatal.Errorf(fatal.Crash, "cannot wait for the unsealing process: %w", err)
	}
	var r report
	if readErr != nil || json.Unmarshal(text, &r) != nil {
		return Result{}, fatal.Errorf(fatal.Crash, "the unsealing process ended without a report (%s); the machine may have too little memory for the key derivation", state)
	}
	if r.Code != "" {
		return r.Result, fatal.Errorf(r.Code, "%s", r.Text)
	}
	if !state.Success() {
		return r.Result, fatal.Errorf(fatal.Crash, "the unsealing process failed (%s)", state)
	}
	return r.Result, nil
}

// Child is everything that the child does; it does not return.
func Child() {
	var r report
	if err := child(&r.Result); err != nil {
		r.Code, r.Text = fatal.CodeOf(err, fatal.Crash), err.Error()
	}
	text, err := json.Marshal(r)
	if err == nil {
		_, err = os.NewFile(reportFD, "report").Write(text)
	}
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func child(r *Result) (err error) {
	defer func() {
		if crash := recover(); crash != nil {
			err = fatal.Errorf(fatal.Crash, "unlocking crashed: %v", crash)
		}
	}()
	var job Job
	if err := json.Unmarshal([]byte(os.Args[len(os.Args)-1]), &job); err != nil {
		return fmt.Errorf("cannot read the job: %w", err)
	}
	if err := limitMemory(); err != nil {
		return err
	}
	name, began := "", time.Now()
	step := func(next string) {
		if name != "" {
			r.Steps = append(r.Steps, Finished(name, began))
		}
		name, began = next, time.Now()
	}
	defer step("")
	r.Plans, err = unseal(job, step)
	return err
}

// limitMemory bounds the child: half of the RAM, and a little for itself.
// The kernel then refuses more, and Go ends the child, not the machine.
func limitMemory() error {
	ram, err := totalRAM()
	if err != nil {
		return err
	}
	limit := ram/2 + baseMemory
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("cannot limit the memory: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("cannot forbid core dumps: %w", err)
	}
	debug.SetMemoryLimit(int64(limit))
	return nil
}

// totalRAM returns the bytes of memory that the kernel has.
func totalRAM() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("cannot read the size of the memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}
