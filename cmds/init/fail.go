package main

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/dm"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/modules"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/root"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/state"
	"cocoroot/unlock/unseal"
)

// How long the end of the guest can be held up at most: by a console that takes
// no bytes or a disk that does not answer, both in the host's hands, and by a
// module whose devices do not answer.
const (
	patience     = 2 * time.Second
	loadPatience = 10 * time.Second
)

// say prints one line of progress.
func say(format string, args ...any) {
	fmt.Printf("cocoroot: "+format+"\n", args...)
}

// fail ends the guest after a step has failed; it does not return.
func (b *boot) fail(err error) {
	if !b.state.CompareAndSwap(switching, failing) {
		b.claim(failing)
	}
	b.end(err)
}

// end wipes every secret, prints one line that says why, and does what the
// policy says. It does not return, whatever happens in it.
func (b *boot) end(err error) {
	defer act(b.policy.OnFail)
	text := err.Error()
	if wipeErr := b.wipeAll(); wipeErr != nil {
		text += "; and a secret could not be wiped: " + wipeErr.Error()
	}
	// dm-crypt's keys go too, unless the disk does not answer; then what was
	// read of the image, and what a killed child has left.
	_ = root.MountAPI() // /dev may have moved
	fatal.Within(patience, func() { _ = state.Unmount(b.policy.States) })
	for _, name := range []string{unseal.RootName, scratchName} {
		fatal.Within(patience, func() { _ = dm.WipeKey(name) })
	}
	fatal.Within(patience, root.Unmount) // may wait for a device that was just suspended
	fatal.Within(patience, func() { _ = secmem.Drain() })
	fatal.Within(patience, func() { report(fatal.Line(fatal.CodeOf(err, fatal.Crash), text)) })
}

// wipeAll removes every secret entry, whatever step the boot has reached:
// when it failed before the driver was loaded, the driver is loaded now:
// only the kernel can reach the page.
func (b *boot) wipeAll() error {
	if _, err := b.openStore(); errors.Is(err, secret.ErrNoStore) && !b.policy.Release.Asks() {
		fatal.Within(loadPatience, func() {
			_ = root.MountAPI() // what can be mounted is
			_, _ = modules.Load()
		})
	}
	store, err := b.openStore()
	units, unitsErr := openOnce(&b.units, secret.CredentialsDir)
	return errors.Join(removeAll(store, err), removeAll(units, unitsErr))
}

// removeAll empties a folder of secrets, which may not be there: nothing was injected,
// or nothing that the kernel took, or nothing is a credential.
func removeAll(s *secret.Store, err error) error {
	if errors.Is(err, secret.ErrNoStore) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.RemoveAll(nil)
}

// openStore opens the folder of secrets, the kernel's or, when the owner is asked,
// ours.
func (b *boot) openStore() (*secret.Store, error) {
	if b.policy.Release.Asks() {
		return openOnce(&b.store, secret.Dir)
	}
	return openOnce(&b.store, secret.Dirs...)
}

// openOnce opens the first of the folders that exists; from then on it can be reached,
// even while the root is switched.
func openOnce(to *atomic.Pointer[secret.Store], dirs ...string) (*secret.Store, error) {
	if s := to.Load(); s != nil {
		return s, nil
	}
	s, err := secret.OpenStore(dirs)
	if err != nil {
		return nil, err
	}
	to.CompareAndSwap(nil, s)
	return to.Load(), nil
}

// report prints the line and waits until the console has sent it.
func report(line string) {
	fmt.Println(line)
	_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1) // tcdrain
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
