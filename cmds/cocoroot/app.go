package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/release/snp"
)

// app holds what every verb uses: where it writes to, and in which form.
type app struct {
	stdout, stderr io.Writer
	own            ovmf.Own  // the firmware that was built with this program
	json           bool      // a program listens: standard error is JSON too
	roots          snp.Roots // nil, but in tests
	// starting is called before each launch, in tests only; what it returns ends that.
	starting  func(context.Context, *launchOptions) (func(), error)
	interrupt atomic.Pointer[func()]
}

// onInterrupt has the first interrupt call f, in place of ending the verb.
func (a *app) onInterrupt(f func()) { a.interrupt.Store(&f) }

// interrupted reports whether the verb deals with this interrupt itself.
func (a *app) interrupted() bool {
	f := a.interrupt.Swap(nil)
	if f != nil {
		(*f)()
	}
	return f != nil
}

// main runs the verb and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	a.json = slices.Contains(args, "--json")
	out := &stdout{Writer: a.stdout}
	a.stdout = out
	root := a.root()
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if errors.Is(out.err, unix.EPIPE) { // as if the signal had ended it; nobody would read more
		return 128 + int(unix.SIGPIPE)
	}
	return a.report(c.CommandPath(), cmp.Or(err, out.err))
}

// stdout is standard output. That it cannot be written is said at the end, so that a
// verb need not ask after each line.
type stdout struct {
	io.Writer
	err error // the last
}

func (s *stdout) Write(b []byte) (int, error) {
	n, err := s.Writer.Write(b)
	if err != nil {
		err = fmt.Errorf("cannot write standard output: %w", err)
		s.err = err
	}
	return n, err
}

// root returns the command with all of its verbs.
func (a *app) root() *cobra.Command {
	root := group("cocoroot", "seal a root file system, and boot it in a confidential guest",
		"Exit codes: 0 ok, 1 failed, 2 usage, 3 measurement mismatch, 4 secret refused,\n5 image tampered, 130 interrupted.",
		a.create(), a.run(), a.initrd(), a.seal(), a.verify(), a.measure(), a.secret(), a.owner(), a.state(), a.release(), a.launch(), a.template(), a.inspect(), a.doctor(), a.version())
	root.Version = version()
	root.SetVersionTemplate("cocoroot {{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(a.stdout)
	root.SetErr(io.Discard) // what help has to say is said by report
	root.SetHelpTemplate(helpText)
	showOptions(root)
	root.SetFlagErrorFunc(wrongOption)
	root.PersistentPreRunE = func(c *cobra.Command, args []string) error {
		return cmp.Or(applySettings(c), fillIn(c, args), missing(c), noStream(c, args))
	}
	takeFolders(root)
	return root
}

// said is one line of standard error for a program: a JSON object.
type said struct {
	Event string `json:"event"` // error, warning or note
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"exit_code,omitempty"` // of an error
}

// report says what went wrong with a command, and returns the exit code.
func (a *app) report(command string, err error) int {
	code, hint := fault.Code(err), ""
	if code == fault.OK {
		return code
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		hint = f.Hint
	}
	if code == fault.Usage && hint == "" {
		hint = command + " --help shows how it is called"
	}
	if errors.Is(err, context.Canceled) && code == fault.Interrupted { // whatever was under way says nothing
		err, hint = errors.New("interrupted; nothing was written"), ""
	}
	if a.json {
		printLine(a.stderr, said{"error", err.Error(), hint, code})
		return code
	}
	fmt.Fprintf(a.stderr, "cocoroot: error: %s\n", shown(err.Error()))
	if hint != "" {
		fmt.Fprintf(a.stderr, "cocoroot: hint: %s\n", shown(hint))
	}
	return code
}

// shown returns a text for a terminal. Names in it may be a stranger's, of an image or
// of a file: they do not move the cursor, and a second line of theirs is indented, so
// that it does not pass for one of this program's.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "\n", "\n  "))
}

// warn says what is worth knowing but is not an error.
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
	fmt.Fprintln(a.stderr, before+shown(text))
}
