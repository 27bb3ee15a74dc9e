package dm

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// udevDir is where udev keeps its database, one file per device.
const udevDir = "/run/udev/data"

// finished is a database entry as udev writes it (systemd,
// src/libsystemd/sd-device/device-private.c: E for a property, V for the
// version of the format). It says that who made the device has also finished
// it, which is what the flag means (lvm2, libdm/libdevmapper.h).
const finished = "E:DM_UDEV_PRIMARY_SOURCE_FLAG=1\nV:1\n"

// TellUdev leaves an entry about an active device in the database of the real
// root's udev.
//
// That udev hears of the device for the first time in the "add" events which
// are replayed at its start. Without the entry, which a udev in the initrd
// would have left, the rules of device-mapper (10-dm.rules, Debian's
// 55-dm.rules) take it for a device that is still being made: no link in
// /dev/mapper, no look at its content, and systemd waits for it in vain.
func TellUdev(name string) error {
	number, err := deviceNumber(name)
	if err != nil {
		return err
	}
	return tellUdev(udevDir, number)
}

func tellUdev(dir string, device uint64) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		entry := filepath.Join(dir, fmt.Sprintf("b%d:%d", unix.Major(device), unix.Minor(device)))
		err = os.WriteFile(entry, []byte(finished), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write udev's database: %w", err)
	}
	return nil
}
