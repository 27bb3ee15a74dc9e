// Command cocoroot is the owner's tool: it builds what a confidential guest
// boots from, and starts it.
//
//	cocoroot initrd   write the initrd
//	cocoroot seal     make an encrypted, verifiable image of a root file system
//	cocoroot measure  compute the launch digest to expect
//	cocoroot secret   the table of secrets, the session with a platform, the packet
//	cocoroot release  check a launched guest's measurement, give it its secrets
//	cocoroot verify   check an image against its manifest or command line
//	cocoroot inspect  say what a file is and what is wrong with it
//	cocoroot launch   start a guest under QEMU
//	cocoroot template write launch files for QEMU, libvirt and KubeVirt
//
// Exit codes: 0 ok, 1 failed, 2 usage, 3 measurement mismatch, 4 secret
// refused, 5 image tampered.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/measure/ovmf"
)

// The exit codes.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitMismatch = 3
	exitSecret   = 4
	exitTampered = 5
)

// command is one verb, or one of a verb's own.
type command struct {
	name  string
	args  string // behind the verb, for the usage line
	brief string
	run   func(ctx context.Context, a *app, flags *pflag.FlagSet, args []string) error
}

func commands() []command {
	return []command{
		{"initrd", "-o FILE", "write the initrd, the same bytes wherever it is built", runInitrd},
		{"seal", "ROOTFS -o IMAGE", "make an encrypted, verifiable image of a folder, a tar, an OCI image or a file system", runSeal},
		{"measure", "--mode sev|sev-es|sev-snp --firmware F [--kernel F [--initrd F] [--cmdline-file F]] [--vcpus N --vcpu-type NAME]", "compute the launch digest to expect", runMeasure},
		{"secret", "COMMAND", "build the table of secrets, the session with a platform, the packet for a launch", runSecret},
		{"release", "COMMAND", "give a measured guest its secrets: collect, verify, inject", runRelease},
		{"verify", "IMAGE --manifest F|--cmdline-file F [--key-file F]", "check every block of an image against the measured root hash; with the key, also that it opens", runVerify},
		{"inspect", "FILE", "say what a file is and what is wrong with it, without secrets", runInspect},
		{"launch", "--mode sev|sev-es|sev-snp|--simulate --firmware F --kernel F --initrd F --cmdline-file F --disk IMAGE", "start a guest under QEMU, on SEV hardware or without", runLaunch},
		{"template", "[NAME --manifest F --firmware F --kernel F --initrd F --disk IMAGE … [-o FILE]]", "write launch files for QEMU, libvirt and KubeVirt; without NAME, list them", runTemplate},
	}
}

// app is where a verb speaks.
type app struct {
	stdout, stderr io.Writer
	own            ovmf.Own // the firmware that was built with this program
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

// endWithin is how long a verb has to end by itself after an interrupt. One that
// waits for a pipe to which nobody writes does not.
const endWithin = 2 * time.Second

func main() {
	own, err := ovmf.ParseOwn(ownFirmware)
	if err != nil {
		fmt.Fprintf(os.Stderr, "cocoroot: error: %v\n", err)
		os.Exit(exitFailed)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	left := new(scratch)
	ctx, cancel := context.WithCancel(withScratch(context.Background(), left))
	a := &app{os.Stdout, os.Stderr, own}
	ended := make(chan int, 1)
	go func() { ended <- a.main(ctx, os.Args[1:]) }()
	select {
	case code := <-ended:
		os.Exit(code)
	case <-signals:
		cancel()
	}
	select {
	case code := <-ended:
		os.Exit(code)
	case <-signals: // a second one ends the process at once
	case <-time.After(endWithin):
	}
	left.remove()
	fmt.Fprintln(a.stderr, "cocoroot: error: interrupted; nothing was written")
	os.Exit(exitFailed)
}

// main runs the verb and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		if len(args) == 0 {
			a.help(a.stderr)
			return exitUsage
		}
		a.help(a.stdout)
		return exitOK
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return a.report(c, a.call(ctx, c, args[1:]))
		}
	}
	fmt.Fprintf(a.stderr, "cocoroot: error: there is no command %q\n", args[0])
	fmt.Fprintln(a.stderr, "cocoroot: hint: cocoroot help lists the commands")
	return exitUsage
}

// call runs one verb. Its function registers flags, and parses with a.parse.
func (a *app) call(ctx context.Context, c command, args []string) error {
	flags := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	flags.SetOutput(a.stdout)
	flags.SortFlags = false
	flags.Usage = func() {
		fmt.Fprintf(a.stdout, "usage: cocoroot %s %s\n\n%s.\n\n%s", c.name, c.args, c.brief, flags.FlagUsages())
	}
	return c.run(ctx, a, flags, args)
}

// choose runs the one of a verb's own commands that args begin with.
func (a *app) choose(ctx context.Context, verb string, all []command, args []string) error {
	if len(args) > 0 && (args[0] == "help" || args[0] == "--help" || args[0] == "-h") {
		fmt.Fprintf(a.stdout, "usage: cocoroot %s COMMAND\n\n", verb)
		for _, c := range all {
			fmt.Fprintf(a.stdout, "  cocoroot %s %-8s %s\n", verb, c.name, c.brief)
		}
		fmt.Fprintf(a.stdout, "\ncocoroot %s COMMAND --help shows a command's options.\n", verb)
		return nil
	}
	var names []string
	for _, c := range all {
		if len(args) > 0 && c.name == args[0] {
			c.name = verb + " " + c.name
			return a.call(ctx, c, args[1:])
		}
		names = append(names, c.name)
	}
	return usagef("%s is followed by one of %s", verb, strings.Join(names, ", "))
}

// parse reads the options, of which those named must be given.
func parse(flags *pflag.FlagSet, args []string, required ...string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return usagef("%w", err)
	}
	for _, name := range required {
		if !flags.Changed(name) {
			return usagef("option --%s is missing", name)
		}
	}
	return nil
}

// report prints an error as the line it is, and returns the exit code.
func (a *app) report(c command, err error) int {
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return exitOK
	}
	code, hint := exitFailed, ""
	if f, ok := errors.AsType[*failure](err); ok {
		code, hint = f.code, f.hint
	}
	if code == exitUsage && hint == "" {
		hint = fmt.Sprintf("cocoroot %s --help shows how it is called", c.name)
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; nothing was written")
	}
	fmt.Fprintf(a.stderr, "cocoroot: error: %v\n", err)
	if hint != "" {
		fmt.Fprintf(a.stderr, "cocoroot: hint: %s\n", hint)
	}
	return code
}

func (a *app) help(w io.Writer) {
	fmt.Fprint(w, "cocoroot builds and starts encrypted confidential guests.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  cocoroot %-8s %s\n", c.name, c.brief)
	}
	fmt.Fprint(w, "\ncocoroot COMMAND --help shows a command's options.\n")
	fmt.Fprint(w, "Exit codes: 0 ok, 1 failed, 2 usage, 3 measurement mismatch, 4 secret refused, 5 image tampered.\n")
}
