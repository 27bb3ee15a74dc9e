// Command run is the first process of a sealed container image: it starts the
// image's program as the image says (package program), and powers the guest off when
// that has ended. README.md has what the program finds.
//
// It isolates nothing: the guest is the program's, and what keeps the host out is
// what booted it. It has no options.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/program"
)

// The exit codes that are not the program's, as docker's.
const (
	codeFailed = 125 // the program was not started
	codeSignal = 128 // and the number of the signal that ended it
)

// patience bounds each step of the guest's end.
const patience = 2 * time.Second

func main() {
	if len(os.Args) == 2 && os.Args[0] == asker {
		keepLease(os.Args[1], os.NewFile(3, "ready")) // does not return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cocoroot: error: run is the first process of a sealed container image only")
		fmt.Fprintln(os.Stderr, "cocoroot: hint: cocoroot seal puts it into one")
		os.Exit(2)
	}
	// Whatever a process of the guest sends to this one must not end it.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	line := openLine("/dev/" + program.Line)
	end(line, run(line, signals))
}

// say prints a line on the console. Some of it may be a stranger's words, such as
// those with which a DHCP server refuses: what does not print is left out, and nothing
// begins a line of its own.
func say(format string, args ...any) {
	fmt.Println("cocoroot: " + printable(fmt.Sprintf(format, args...)))
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// run starts the program and returns its exit code when it has ended.
func run(line *os.File, signals <-chan os.Signal) (code int) {
	defer func() {
		if r := recover(); r != nil {
			say("error: run crashed: %v", r)
			code = codeFailed
		}
	}()
	spec, err := prepare()
	if err != nil {
		say("error: cannot start the image's program: %v", err)
		return codeFailed
	}
	pid, output, err := start(spec)
	if err != nil {
		say("error: cannot start %s: %v", spec.Path, err)
		return codeFailed
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			_ = unix.Kill(pid, unix.Signal(spec.StopSignal))
			time.AfterFunc(time.Duration(spec.Grace)*time.Second, func() { _ = unix.Kill(-1, unix.SIGKILL) })
		})
	}
	go listen(line, stop)
	go forward(signals, pid)
	code = reap(pid)
	_ = unix.Kill(-1, unix.SIGKILL) // all others end with it
	fatal.Within(patience, func() { reap(-1) })
	fatal.Within(patience, func() { <-output })
	return code
}

// prepare makes what the program finds.
func prepare() (program.Spec, error) {
	text, err := os.ReadFile(program.File)
	if err != nil {
		return program.Spec{}, err
	}
	spec, err := program.Parse(text)
	if err != nil {
		return spec, err
	}
	if err := mountAll(); err != nil {
		return spec, err
	}
	if err := nameMachine(spec.Hostname); err != nil {
		return spec, err
	}
	if err := network(spec.Network); err != nil {
		return spec, err
	}
	return spec, secrets(&spec)
}

// start starts the program. The channel is closed when nobody can write to the
// console any more.
func start(spec program.Spec) (pid int, output <-chan struct{}, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	// Not the console itself, which is a terminal of the host's.
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer w.Close()
	if err := w.Chown(int(spec.UID), int(spec.GID)); err != nil { // or /dev/stdout is not the user's to open
		return 0, nil, err
	}
	limitRights()
	attr := &syscall.ProcAttr{
		Dir: spec.Dir, Env: spec.Env, Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: spec.UID, Gid: spec.GID, Groups: spec.Groups}},
	}
	if pid, err = syscall.ForkExec(spec.Path, spec.Args, attr); err != nil {
		return 0, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = os.Stdout.ReadFrom(r)
	}()
	return pid, done, nil
}

// rights are the capabilities that a program of root's has, as under docker: those
// with which programs expect to run, not a border.
var rights = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
	unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
}

// limitRights takes the other capabilities from what this thread starts, which is
// for nothing else afterwards.
func limitRights() {
	runtime.LockOSThread()
	keep := uint64(0)
	for _, r := range rights {
		keep |= 1 << r
	}
	for c := range 64 {
		if keep&(1<<c) == 0 {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0) // EINVAL: the kernel has none of this number
		}
	}
}

// reap waits for processes, orphans too, until the one has ended or there is none,
// and returns its exit code.
func reap(pid int) int {
	for {
		var status unix.WaitStatus
		switch got, err := unix.Wait4(-1, &status, 0, nil); {
		case err == unix.EINTR:
		case err != nil: // ECHILD
			return codeFailed
		case got == pid && status.Signaled():
			return codeSignal + int(status.Signal())
		case got == pid:
			return status.ExitStatus()
		}
	}
}

// forward passes on the signals that this process gets.
func forward(signals <-chan os.Signal, pid int) {
	for s := range signals {
		switch s {
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // meant for this process
		default:
			_ = unix.Kill(pid, s.(unix.Signal))
		}
	}
}

// end tells the exit code and powers off.
func end(line *os.File, code int) {
	say("the image's program ended with exit code %d", code)
	fatal.Within(patience, func() { tell(line, code) })
	fatal.Within(patience, func() { _ = unix.IoctlSetInt(1, unix.TCSBRK, 1) }) // tcdrain
	unix.Sync()                                                                // nothing runs any more that could write
	command := unix.LINUX_REBOOT_CMD_POWER_OFF
	if words, err := os.ReadFile("/proc/cmdline"); err == nil && strings.Contains(string(words), "acpi=off") {
		command = unix.LINUX_REBOOT_CMD_RESTART // there is no power-off
	}
	_ = unix.Reboot(command)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
}
