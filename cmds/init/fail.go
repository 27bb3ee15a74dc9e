package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/modules"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/root"
	"cocoroot/unlock/secret"
)

// consolePatience bounds how long a console that takes no bytes can hold up
// the end of the guest. The host is at its other side.
const consolePatience = 2 * time.Second

// say prints one line of progress.
func say(format string, args ...any) {
	fmt.Printf("cocoroot: "+format+"\n", args...)
}

// fail ends the guest: every secret is wiped, one line says why, and the
// policy's action follows. It does not return. A failure during a failure
// (the deadline, say) waits for the first one.
func (b *boot) fail(err error) {
	b.failing.Do(func() {
		text := err.Error()
		if wipeErr := b.wipeAll(); wipeErr != nil {
			text += "; and a secret could not be wiped: " + wipeErr.Error()
		}
		report(fatal.Line(fatal.CodeOf(err, fatal.Crash), text))
		act(b.policy.OnFail)
	})
	select {}
}

// wipeAll removes every secret entry, whatever step the boot has reached:
// when it failed before the driver was loaded, the driver is loaded now, for
// only the kernel can reach the page.
func (b *boot) wipeAll() error {
	if !b.mounted.Load() {
		_ = root.MountAPI() // what can be mounted is
	}
	if !b.loaded.Load() {
		_, _ = modules.Load() // without the driver there is no store, below
	}
	store, err := secret.OpenStore(secret.Dirs)
	if err != nil {
		return nil // nothing was injected, or nothing that the kernel took
	}
	return store.RemoveAll(nil)
}

// report prints the line and waits until the console has sent it.
func report(line string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fmt.Println(line)
		_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1) // tcdrain
	}()
	select {
	case <-done:
	case <-time.After(consolePatience):
	}
}

func act(a policy.Action) {
	command := unix.LINUX_REBOOT_CMD_POWER_OFF
	switch a {
	case policy.Reboot:
		command = unix.LINUX_REBOOT_CMD_RESTART
	case policy.Halt:
		command = unix.LINUX_REBOOT_CMD_HALT
	}
	_ = unix.Reboot(command)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
}
