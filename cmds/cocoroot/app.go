package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/measure/ovmf"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitMismatch    = 3
	exitSecret      = 4
	exitTampered    = 5
	exitInterrupted = 130
)

// app is where a verb speaks.
type app struct {
	stdout, stderr io.Writer
	own            ovmf.Own // the firmware that was built with this program
	json           bool     // a program listens: standard error is JSON too
}

// main runs the verb and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	a.json = slices.Contains(args, "--json")
	root := a.root()
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	return a.report(c.CommandPath(), err)
}

// root returns the command with all of its verbs.
func (a *app) root() *cobra.Command {
	root := group("cocoroot", "seal a root file system, and boot it in a confidential guest",
		"Exit codes: 0 ok, 1 failed, 2 usage, 3 measurement mismatch, 4 secret refused, 5 image tampered, 130 interrupted.",
		a.initrd(), a.seal(), a.verify(), a.measure(), a.secret(), a.release(), a.launch(), a.template(), a.inspect(), a.version())
	root.Version = version()
	root.SetVersionTemplate("cocoroot {{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpFunc(a.help)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%w", err) })
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error { return missing(c) }
	return root
}

// failure is an error with an exit code and, mostly, the next step to take.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usagef is wrong use of a verb.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// hinted adds the next step to err.
func hinted(err error, format string, args ...any) error {
	return &failure{code: exitFailed, err: err, hint: fmt.Sprintf(format, args...)}
}

// exitCode returns the exit code that an error comes to.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return exitFailed
}

// said is what standard error has for a program, one object a line.
type said struct {
	Event string `json:"event"` // error, warning or note
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"exit_code,omitempty"` // of an error
}

// report says what went wrong with a command, and returns the exit code.
func (a *app) report(command string, err error) int {
	code, hint := exitCode(err), ""
	if code == exitOK {
		return code
	}
	if f, ok := errors.AsType[*failure](err); ok {
		hint = f.hint
	}
	if code == exitUsage && hint == "" {
		hint = command + " --help shows how it is called"
	}
	if code == exitInterrupted {
		err = errors.New("interrupted; nothing was written")
	}
	if a.json {
		printLine(a.stderr, said{"error", err.Error(), hint, code})
		return code
	}
	fmt.Fprintf(a.stderr, "cocoroot: error: %v\n", err)
	if hint != "" {
		fmt.Fprintf(a.stderr, "cocoroot: hint: %s\n", hint)
	}
	return code
}

// warn says what is worth knowing and no error.
func (a *app) warn(format string, args ...any) {
	a.say("warning", "cocoroot: warning: ", format, args...)
}

// note says what happens.
func (a *app) note(format string, args ...any) { a.say("note", "cocoroot: ", format, args...) }

func (a *app) say(event, before, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if a.json {
		printLine(a.stderr, said{Event: event, Text: text})
		return
	}
	fmt.Fprintln(a.stderr, before+text)
}
