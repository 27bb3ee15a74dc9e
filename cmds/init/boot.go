package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/disk"
	"cocoroot/unlock/dm"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/modules"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/root"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/state"
	"cocoroot/unlock/unseal"
)

const (
	// afterDisk is how long everything except the wait for the disk may take. It
	// is meant for the slowest key derivation that the allow-list allows.
	afterDisk = 2 * time.Minute
	// hurry bounds it too: a policy that waits for the disk for a few seconds
	// only waits for the rest so many times as long, not for two minutes.
	hurry = 4
	// patient is how many times as long as for the disk a guest waits for its
	// owner's answer, which a person may have to give: five minutes by default.
	patient = 10
	// watchdogGrace is how long after the deadline the watchdog ends a boot
	// that has not ended itself: the child that unseals is killed first.
	watchdogGrace = unseal.Grace + time.Second
	// noticeAfter is when a disk that is not there yet gets a line on the console.
	noticeAfter = 1500 * time.Millisecond
)

// boot is one boot: what is known so far and what has been done.
type boot struct {
	state    atomic.Int32 // one of the states below
	policy   policy.Policy
	store    atomic.Pointer[secret.Store] // nil while the kernel shows none
	units    atomic.Pointer[secret.Store] // the credentials; nil without any
	disk     disk.Disk                    // the image's
	guids    []efi.GUID                   // the entries that were injected
	steps    []unseal.Step
	before   float64 // milliseconds of processor time that the first process had used in the kernel before init began
	deadline context.Context
	release  context.CancelFunc // of deadline
	watchdog *time.Timer        // fires a little after deadline

	scratch    disk.Disk   // when the policy has one
	stateDisks []disk.Disk // of the policy's states, in their order
	plans      []state.Plan
	states     []state.Mounted
}

// The states of a boot. The goroutine that moves it away from booting is the
// only one that goes on: a guest that is being ended does not start the image,
// and one that is starting the image is not ended.
const (
	booting int32 = iota
	switching
	failing
)

// claim moves the boot to another state, or stops this goroutine for good
// when another one has done so before.
func (b *boot) claim(state int32) {
	if !b.state.CompareAndSwap(booting, state) {
		select {}
	}
}

// run boots; it does not return.
func (b *boot) run() {
	b.before = usageOf(unix.RUSAGE_SELF).Milliseconds
	b.policy = policy.Defaults()
	defer func() {
		if r := recover(); r != nil {
			b.fail(fatal.Errorf(fatal.Crash, "init crashed: %v", r))
		}
	}()
	// The host's ctrl-alt-del and whatever signal it can cause do nothing.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	signal.Notify(make(chan os.Signal, 1))
	b.watch()
	b.fail(b.boot())
}

// watch sets the deadline of the whole boot from the policy; until that is
// read, from its defaults.
func (b *boot) watch() {
	if b.watchdog != nil {
		b.watchdog.Stop() // one that has fired already stops the boot at its next step
		b.release()
	}
	limit := b.policy.Timeout + min(afterDisk, hurry*b.policy.Timeout) + b.wait()
	b.deadline, b.release = context.WithTimeout(context.Background(), limit)
	b.watchdog = time.AfterFunc(limit+watchdogGrace, func() {
		b.claim(failing)
		b.end(fatal.Errorf(fatal.Deadline, "the boot did not end within %s; the disk may not answer, or the machine is too slow", limit))
	})
}

// wait is how long the owner has to answer.
func (b *boot) wait() time.Duration {
	if !b.policy.Release.Asks() {
		return 0
	}
	return patient * b.policy.Timeout
}

// boot goes through the steps in order; it returns only with an error.
func (b *boot) boot() error {
	if !secmem.Clears {
		return fatal.Errorf(fatal.Build, "init was built without GOEXPERIMENT=runtimesecret; build it with build.sh tools")
	}
	for _, s := range []struct {
		name string
		code fatal.Code // for errors that carry none
		do   func() error
	}{
		{"mount", fatal.Setup, root.MountAPI},
		{"policy", fatal.Policy, b.readPolicy},
		{"modules", fatal.Module, b.loadModules},
		{"disk", fatal.Disk, b.findDisks},
		{"unseal", fatal.Crash, b.unseal},
		{"wipe", fatal.Wipe, b.wipe},
		{"scratch", fatal.Scratch, b.makeScratch},
		{"root", fatal.RootMount, b.mountRoot},
		{"arm", fatal.Arm, b.arm},
		{"state", fatal.StateDisk, b.mountStates},
		{"status", fatal.Setup, b.writeStatus},
		{"switch", fatal.Switch, b.switchRoot},
	} {
		began := time.Now()
		if b.state.Load() == failing {
			select {} // the watchdog ends the guest
		}
		if err := s.do(); err != nil {
			return fatal.Errorf(fatal.CodeOf(err, s.code), "%w", err)
		}
		if s.name != "unseal" { // which reports its own three
			b.steps = append(b.steps, unseal.Finished(s.name, began))
		}
	}
	return errors.New("nothing was started") // not reached: switchRoot does not succeed and return
}

func (b *boot) readPolicy() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	p, err := policy.Parse(string(line))
	if err != nil {
		return fmt.Errorf("%w; use the command line that cocoroot seal wrote", err)
	}
	b.policy = p
	b.watch()
	return nil
}

func (b *boot) loadModules() error {
	n, err := modules.Load()
	if err != nil {
		return fmt.Errorf("%w; build the archive with this kernel's modules (cocoroot initrd --modules)", err)
	}
	say("%d kernel modules loaded", n)
	// Without a store the disk is still looked for: unsealing says why.
	if _, err := b.openStore(); !errors.Is(err, secret.ErrNoStore) {
		return err
	}
	return nil
}

func (b *boot) unseal() error {
	say("disk %s, image %x", b.disk.Path, b.policy.Image.RootHash)
	p := b.policy
	if p.Release.Asks() {
		say("asking the owner over %s, %s at most", p.Release.Channel, b.wait())
	}
	result, err := unseal.Run(b.deadline, unseal.Job{Device: b.disk.Path, States: b.stateDisks, Policy: p, Wait: b.wait()})
	b.steps, b.plans = append(b.steps, result.Steps...), result.Plans
	if err == nil && len(b.plans) != len(p.States) {
		return errors.New("the unsealing process has no plan for every state")
	}
	if err == nil && len(p.Credentials) > 0 {
		_, err = openOnce(&b.units, secret.CredentialsDir)
	}
	return err
}

// wipe removes the disk key, which has been used, and the entries that the
// workload must not have, and shows it the others.
func (b *boot) wipe() error {
	store, err := b.openStore()
	if err != nil {
		return err
	}
	if b.guids, err = store.GUIDs(); err != nil {
		return err
	}
	if err := store.RemoveAll(b.policy.Kept); err != nil {
		return err
	}
	if err := secmem.Drain(); err != nil {
		return err
	}
	say("disk key wiped")
	if b.policy.Release.Asks() {
		b.guids = append(b.guids, b.policy.Key) // which was never in the store
		if len(b.policy.States) > 0 {
			b.guids = append(b.guids, b.policy.StateKey)
		}
		for _, c := range b.policy.Credentials {
			b.guids = append(b.guids, c.GUID)
		}
		return nil
	}
	return store.Share()
}

func (b *boot) mountRoot() error {
	device, err := dm.Path(unseal.RootName)
	if err != nil {
		return err
	}
	if err := dm.LimitReads(unseal.RootName); err != nil {
		return &fatal.Error{Code: fatal.LUKSMap, Err: err}
	}
	err = root.Mount(device, b.policy, b.mountScratch)
	if err == nil {
		err = root.CheckInit(b.policy.Init)
	}
	if bad, statusErr := b.verity().Corrupted(); statusErr != nil {
		return statusErr
	} else if bad {
		return fatal.Errorf(fatal.Verity, "the disk does not hold the measured image (%v); boot it with the command line it was sealed with", err)
	}
	if errors.Is(err, root.ErrNoInit) {
		return fatal.Errorf(fatal.RootInit, "%w; put it into the image, or name another with init=", err)
	}
	return err
}

func (b *boot) verity() dm.Verity {
	return dm.Verity{Name: unseal.VerityName, Device: b.disk.Path, Params: b.policy.Image}
}

// arm makes the guest stop at the first changed block, from now on.
func (b *boot) arm() error { return b.verity().PanicOnCorruption() }

// mountStates comes when the secrets are wiped and the image is mounted: what the disks
// hold is the host's, and the kernel reads it.
func (b *boot) mountStates() (err error) {
	b.states, err = state.Mount(b.policy.States, b.stateDisks, b.plans)
	for _, s := range b.states {
		say("state %s at generation %d", s.Path, s.Generation)
	}
	if err == nil && len(b.states) > 0 { // once more: a link of the image may lead there
		if err = root.CheckInit(b.policy.Init); err != nil {
			err = &fatal.Error{Code: fatal.StatePath, Err: err}
		}
	}
	return err
}

func (b *boot) switchRoot() error {
	if b.policy.Modules == policy.Closed {
		if err := modules.Close(); err != nil {
			return fatal.Errorf(fatal.Module, "%w; cocoroot.modules=open leaves them open", err)
		}
	}
	say("starting %s", b.policy.Init)
	// From here on the boot is not ended from outside; the disk key is gone.
	b.claim(switching)
	// What followed "--" on the command line reached us as arguments.
	argv := append([]string{b.policy.Init}, os.Args[1:]...)
	if len(b.policy.Credentials) > 0 { // with which systemd looks for none of the host's
		if err := os.Setenv("CREDENTIALS_DIRECTORY", secret.CredentialsDir); err != nil {
			return err
		}
	}
	return root.Switch(b.policy.Init, argv, os.Environ(), b.policy.Console)
}
