package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// u-root's commands, as the archive has them.
const (
	commandDir = "/bbin"
	shellPath  = commandDir + "/gosh"
)

// shell runs one shell on the console and returns at its end, reaping what it
// leaves behind.
func shell() error {
	say("u-root's commands are in %s; the guest powers off when the shell ends", commandDir)
	p, err := os.StartProcess(shellPath, []string{"gosh"}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=" + commandDir, "HOME=/", "TERM=" + os.Getenv("TERM")},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		// A session of its own, so that ^C ends a command and not the shell.
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
	if err != nil {
		return fmt.Errorf("cannot start the shell: %w", err)
	}
	for {
		ended, err := unix.Wait4(-1, nil, 0, nil)
		if ended == p.Pid {
			say("the shell has ended")
			return nil
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot wait for the shell: %w", err)
		}
	}
}
