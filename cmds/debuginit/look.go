package main

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"cocoroot/unlock/policy"
)

// showPolicy shows what the ordinary init would make of the command line. A
// line that it would refuse is what a debug archive may be for, so that is no
// error here.
func showPolicy() {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		say("policy: cannot be read: %v", err)
		return
	}
	p, err := policy.Parse(string(line))
	if err != nil {
		say("policy: init would refuse it: %v", err)
		return
	}
	say("policy: init would take it")
	for word := range strings.FieldsSeq(string(line)) {
		if strings.HasPrefix(word, policy.Prefix) {
			say("policy: %s", word)
		}
	}
	say("policy: rootfstype=%s rootflags=%q init=%q", p.FSType, p.RootFlags, p.Init)
}

// sectorSize is the unit of /sys/class/block/*/size in bytes.
const sectorSize = 512

// showDisks shows the block devices that sysfs has now, each with what
// cocoroot.disk= can name it by. Serials and labels are the host's.
func showDisks(sys fs.FS) {
	names, err := fs.ReadDir(sys, "class/block")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		say("disks: cannot be listed: %v", err)
		return
	}
	say("disks: %d block devices", len(names))
	for _, e := range names {
		attribute := func(name string) string {
			text, _ := fs.ReadFile(sys, "class/block/"+e.Name()+"/"+name)
			return strings.TrimSuffix(string(text), "\n")
		}
		sectors, err := strconv.ParseUint(attribute("size"), 10, 54)
		if err != nil {
			say("disks: /dev/%s: its size cannot be read", e.Name())
			continue
		}
		say("disks: /dev/%s: %d bytes, serial %q, label %q", e.Name(), sectors*sectorSize, attribute("serial"), label(attribute("uevent")))
	}
}

// label returns the name of a partition from its uevent file.
func label(uevent string) string {
	for line := range strings.Lines(uevent) {
		if name, ok := strings.CutPrefix(line, "PARTNAME="); ok {
			return strings.TrimSuffix(name, "\n")
		}
	}
	return ""
}
