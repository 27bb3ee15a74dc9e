// Command debuginit is the first process of a debug archive: it shows the GUIDs
// and lengths of the injected secrets, removes every secret, and only then starts a
// shell on the console, for a look at the disks (/sys/class/block) and the command
// line (/proc/cmdline) of a guest.
//
// It is not the guest's init with a shell added: it opens no image and cannot.
// The archive it goes into has another measurement than the ordinary one, and
// who releases a secret for that measurement gives the secret to the host:
// whoever has the console has the shell, and nothing here protects from it.
// The shell starts only after a check that no secret is left. Otherwise the
// guest ends as with the ordinary init, with one FATAL line.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/modules"
	"cocoroot/unlock/root"
	"cocoroot/unlock/secret"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cocoroot: error: debuginit runs as the first process of a guest only")
		fmt.Fprintln(os.Stderr, "cocoroot: hint: put it into an archive with cocoroot initrd --debug")
		os.Exit(2)
	}
	// The host's ctrl-alt-del and whatever signal it can cause do nothing.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	signal.Notify(make(chan os.Signal, 1))
	watchdog := time.AfterFunc(limit, func() {
		end(fatal.Errorf(fatal.Deadline, "looking at the guest did not end within %s; a device may not answer", limit))
	})
	err := look()
	if !watchdog.Stop() {
		select {} // it ends the guest
	}
	if err == nil {
		err = shell()
	}
	end(err)
}

// limit is how long everything before the shell may take.
const limit = 2 * time.Minute

// patience is how long a console that takes no bytes can hold up the end.
const patience = 2 * time.Second

// end wipes what can still be wiped, says why there is no shell if err is not
// nil, and powers off.
func end(err error) {
	if store, openErr := secret.OpenStore(secret.Dirs); openErr == nil {
		_ = store.RemoveAll(nil)
	}
	fatal.Within(patience, func() {
		if err != nil {
			fmt.Println(fatal.Line(fatal.CodeOf(err, fatal.Crash), err.Error()+"; no shell was started"))
		}
	})
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
}

// look shows what there is to see and removes the secrets; after an error
// there must be no shell.
func look() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fatal.Errorf(fatal.Crash, "debuginit crashed: %v", r)
		}
	}()
	banner()
	if err := root.MountAPI(); err != nil {
		return &fatal.Error{Code: fatal.Setup, Err: err}
	}
	n, err := modules.Load()
	if err != nil {
		return &fatal.Error{Code: fatal.Module, Err: err}
	}
	say("%d kernel modules loaded", n)
	if err := takeSecrets(secret.Dirs); err != nil {
		return err
	}
	banner()
	return nil
}

func say(format string, args ...any) {
	fmt.Printf("cocoroot: debug: "+format+"\n", args...)
}

func banner() {
	const stars = "*************************************************************************"
	say(stars)
	say("THIS IS A DEBUG ARCHIVE: WHOEVER HAS THIS CONSOLE HAS A SHELL IN THE GUEST")
	say("It opens no image. Release no secret to its measurement.")
	say(stars)
}
