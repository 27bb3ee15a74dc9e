// Command recorder writes what can be told apart later, and says what of it is
// there. A boot test builds it and puts it into an image.
//
//	recorder keep FOLDER N     says which records are there, of which N at least must be,
//	                           and writes further ones, without end, each synced and
//	                           then acknowledged
//	recorder look FOLDER N     does the first half of it
//	recorder version FOLDER V  gives all files the version V
//	recorder synced FOLDER V   does so with each file by itself, and without a commit
//	recorder check FOLDER      reads all files, and counts the versions
//	recorder settle NAME       writes dm-integrity's journal to its places, and ends the guest
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println("recorder:", err)
		os.Exit(1)
	}
}

func run(command string, args []string) error {
	number := func() int {
		n, _ := strconv.Atoi(args[1])
		return n
	}
	switch command {
	case "keep":
		return keep(args[0], number(), true)
	case "look":
		return keep(args[0], number(), false)
	case "version":
		return setVersion(args[0], number(), false)
	case "synced":
		return setVersion(args[0], number(), true)
	case "check":
		return checkVersions(args[0])
	case "settle":
		if err := devmapper.Suspend(args[0]); err != nil {
			return err
		}
		fmt.Println("boot-test: settled")
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // a sync would wait for the device
	}
	return fmt.Errorf("cannot %q", command)
}
