package launch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/launch/qmp"
)

const (
	// endTime is how long QEMU may take to end once the guest has: it
	// flushes writable disks.
	endTime = 30 * time.Second
	// grace is how long pipes may stay open after QEMU's end, which needs no
	// time unless somebody else holds them.
	grace = 5 * time.Second
)

// machine is a running QEMU.
type machine struct {
	kill     context.CancelFunc
	control  net.Conn // our end of QMP
	stderr   tail     // to be read when QEMU has exited
	watching observer
	booting  context.Context // ends with ErrNotBooted when the firmware boots nothing
	reason   string          // of the SHUTDOWN event

	exited  chan struct{} // closed when waitErr is set
	waitErr error
	line    net.Conn      // our end of the port to cmds/run; nil without one
	told    chan *int     // the exit code that came there
	drained chan struct{} // closed when the console has been read to its end
	console io.ReadCloser // our end of the console
}

// start runs QEMU with the guest paused.
func start(ctx context.Context, c Config, v Version, in *input, out io.Writer) (_ *machine, err error) {
	ctx, kill := context.WithCancel(ctx)
	booting, refused := context.WithCancelCause(ctx)
	m := &machine{
		kill: kill, watching: observer{out: out, refused: refused}, booting: booting,
		exited: make(chan struct{}), drained: make(chan struct{}), told: make(chan *int, 1),
	}
	var pass, ends []*os.File // what QEMU gets, and what of it is only QEMU's
	defer func() {
		for _, f := range ends {
			f.Close()
		}
		if err != nil {
			kill()
			m.close()
		}
	}()
	number := func(f *os.File) string {
		pass = append(pass, f)
		return strconv.Itoa(2 + len(pass))
	}
	file := func(f *os.File) string {
		if f == nil {
			return ""
		}
		return "/proc/self/fd/" + number(f)
	}
	// socket returns a connection and the number of its other end.
	socket := func() (conn net.Conn, other string) {
		var theirs *os.File
		if err == nil {
			conn, theirs, err = socketPair()
		}
		if err == nil {
			ends = append(ends, theirs)
			other = number(theirs)
		}
		return conn, other
	}
	n := names{firmware: file(in.files["firmware"]), kernel: file(in.files["kernel"]), initrd: file(in.files["initrd"]), secret: file(in.files["secret"])}
	if c.SEV == nil {
		n.hashes = file(in.files["hashes"])
	}
	m.control, n.control = socket()
	if c.Program {
		m.line, n.line = socket()
	}
	if c.ConsoleInput != nil {
		m.console, n.typed = socket()
	} else if ours, theirs, pipeErr := os.Pipe(); pipeErr != nil {
		err = cmp.Or(err, fmt.Errorf("cannot make a pipe for the console: %w", pipeErr))
	} else {
		ends = append(ends, theirs)
		m.console, n.console = ours, file(theirs)
	}
	if err != nil {
		return nil, err
	}

	cmd := exec.CommandContext(ctx, c.QEMU, arguments(c, v, in.layout, n)...)
	cmd.ExtraFiles = pass
	cmd.Stdout, cmd.Stderr = &m.stderr, &m.stderr
	cmd.WaitDelay = grace
	// A ^C at the terminal is this program's to handle, and QEMU does not
	// outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go m.wait(cmd, started)
	if err := <-started; err != nil {
		return nil, m.stderr.failed(err)
	}
	if c.ConsoleInput != nil {
		go io.Copy(m.console.(net.Conn), c.ConsoleInput) // ends with the input or the connection
	}
	go m.drain()
	if c.Program {
		go func() { m.told <- attend(m.line, c.Stop) }()
	}
	return m, nil
}

// close closes our ends.
func (m *machine) close() {
	for _, end := range []io.Closer{m.console, m.control, m.line} {
		if end != nil {
			end.Close()
		}
	}
}

// wait runs the process from one thread: it would be killed with the
// thread that started it.
func (m *machine) wait(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	started <- err
	if err == nil {
		m.waitErr = cmd.Wait()
		close(m.exited)
	}
}

func (m *machine) drain() {
	io.Copy(&m.watching, m.console) // ends with the pipe; Write never fails
	close(m.drained)
}

// socketPair returns a connection and the file of its other end.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	return conn, theirs, nil
}

// drive takes the guest from its start to its end.
func (m *machine) drive(ctx context.Context, c Config, in *input) error {
	client, err := qmp.New(ctx, m.control)
	if err != nil {
		return err
	}
	defer client.Close()
	// QEMU answers this when the machine is made, so everything is read.
	if err := client.Execute(ctx, "query-status", nil, nil); err != nil {
		return err
	}
	if err := in.wipeSecret(); err != nil {
		return err
	}
	if c.OnStart != nil {
		if err := c.OnStart(ctx, client); err != nil {
			return err
		}
	}
	if !c.waits() {
		if err := client.Execute(ctx, "cont", nil, nil); err != nil {
			return err
		}
	}
	if c.OnSilence != nil {
		hint := time.AfterFunc(c.Silence, func() {
			if m.watching.silent() {
				c.OnSilence()
			}
		})
		defer hint.Stop()
	}
	ended := m.awaitShutdown(client)
	if ended != nil && !errors.Is(ended, ErrNotBooted) || c.OnShutdown == nil {
		return ended
	}
	if ended != nil { // it hangs, and would forever
		if err := client.Execute(ctx, "stop", nil, nil); err != nil {
			return err
		}
	}
	if err := awaitStop(ctx, client); err != nil {
		return err
	}
	if err := c.OnShutdown(ctx, client); err != nil || ended != nil {
		return cmp.Or(err, ended)
	}
	return client.Execute(ctx, "quit", nil, nil)
}

// awaitShutdown notes the reason of the guest's end.
func (m *machine) awaitShutdown(client *qmp.Client) error {
	event, err := client.Event(m.booting, "SHUTDOWN")
	if cause := context.Cause(m.booting); err != nil && errors.Is(cause, ErrNotBooted) {
		return cause
	}
	if err != nil {
		return err
	}
	var data struct{ Reason string }
	if err := json.Unmarshal(event.Data, &data); err != nil {
		return fmt.Errorf("cannot read QEMU's reason for the shutdown: %w", err)
	}
	m.reason = data.Reason
	return nil
}

// awaitStop waits until no instruction of the guest runs any more, which is
// a moment after the event.
func awaitStop(ctx context.Context, client *qmp.Client) error {
	for {
		var status struct{ Running bool }
		if err := client.Execute(ctx, "query-status", nil, &status); err != nil || !status.Running {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish ends QEMU if it has not ended, and says how the guest ended. err is
// what went wrong while it ran.
func (m *machine) finish(ctx context.Context, err error) (Outcome, error) {
	closed := errors.Is(err, qmp.ErrClosed)
	if err != nil && !closed {
		m.kill()
	}
	// Otherwise QEMU is on its way out: let it tell its status.
	select {
	case <-m.exited:
	case <-time.After(endTime):
		err = errors.Join(err, fmt.Errorf("cannot end QEMU in %v other than by force", endTime))
	}
	byForce := ctx.Err() != nil || err != nil && !closed
	m.kill()
	<-m.exited
	select {
	case <-m.drained:
	case <-time.After(grace):
		// A child of QEMU has kept the pipe, or the reader of the console
		// does not read.
	}
	defer m.close()

	outcome, outErr := m.watching.outcome()
	outcome.Reason = m.reason
	if m.line != nil {
		select {
		case outcome.Exit = <-m.told: // QEMU has ended, and closed its end
		case <-time.After(grace): // or a child of it has kept that
		}
	}
	switch {
	case err == nil && m.waitErr == nil:
		// The guest ended, and QEMU with it.
	case ctx.Err() != nil:
		err = fmt.Errorf("cannot wait for the guest's end: %w", ctx.Err())
	case !byForce && m.waitErr != nil:
		err = m.stderr.failed(m.waitErr)
	case closed && m.reason == "":
		err = m.stderr.failed(errors.New("it ended before the guest did"))
	case closed:
		err = nil // quit's answer was lost with the connection
	}
	if outErr != nil {
		err = errors.Join(err, fmt.Errorf("cannot pass on the console: %w", outErr))
	}
	return outcome, err
}

// errRun is what a QEMU that did not start, or that failed, comes to.
var errRun = errors.New("cannot run QEMU")

const (
	tailBytes = 16 << 10
	tailLines = 5
)

// tail keeps the end of what is written to it.
type tail []byte

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	*t = (*t)[max(0, len(*t)-tailBytes):]
	return len(b), nil
}

// failed returns the error of a process that ended with err, with its last
// lines. Warnings, of which TCG has dozens, are left out where there is
// anything else.
func (t tail) failed(err error) error {
	lines := strings.FieldsFunc(string(t), func(r rune) bool { return r == '\n' || r == '\r' })
	others := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.Contains(line, ": warning: ") })
	if len(others) > 0 {
		lines = others
	}
	text := strings.Join(lines[max(0, len(lines)-tailLines):], "; ")
	if text == "" {
		return fmt.Errorf("%w: %w", errRun, err)
	}
	return fmt.Errorf("%w: %w: %s", errRun, err, text)
}
