//go:build !man

// Command cocoroot is the owner's tool: it builds what a confidential guest
// boots from, and starts it. cocoroot --help lists what it does.
//
// Exit codes: 0 ok, 1 failed, 2 usage, 3 measurement mismatch, 4 secret
// refused, 5 image tampered, 130 interrupted.
package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure/ovmf"
)

// endWithin is how long a verb has to end by itself after an interrupt. One that
// waits for a pipe to which nobody writes does not.
const endWithin = 2 * time.Second

func main() {
	own, err := ovmf.ParseOwn(ownFirmware)
	a := &app{stdout: os.Stdout, stderr: os.Stderr, own: own}
	if err != nil {
		os.Exit(a.report("cocoroot", err))
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGQUIT, unix.SIGPIPE)
	if !signal.Ignored(unix.SIGHUP) { // as under nohup
		signal.Notify(signals, unix.SIGHUP)
	}
	left := new(files.Scratch)
	ctx, cancel := context.WithCancel(files.WithScratch(context.Background(), left))
	ended := make(chan int, 1)
	go func() { ended <- a.main(ctx, os.Args[1:]) }()
	for ctx.Err() == nil {
		select {
		case code := <-ended:
			os.Exit(code)
		case s := <-signals:
			switch {
			case s == unix.SIGPIPE && unread(): // nor would anybody read an error
				left.Remove()
				os.Exit(128 + int(unix.SIGPIPE))
			case s != unix.SIGPIPE && !a.interrupted():
				cancel()
			}
		}
	}
	select {
	case code := <-ended:
		os.Exit(code)
	case <-signals: // a second one ends the process at once
	case <-time.After(endWithin):
	}
	left.Remove()
	os.Exit(a.report("cocoroot", context.Canceled))
}

// unread reports whether nobody reads standard output any more. The signal for it
// comes from other pipes too, such as one to a program that has ended.
func unread() bool {
	stdout := []unix.PollFd{{Fd: 1}}
	n, err := unix.Poll(stdout, 0)
	return err == nil && n > 0 && stdout[0].Revents&unix.POLLERR != 0
}
