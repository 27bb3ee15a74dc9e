package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/volume"
)

// scratchName is that of the device-mapper device.
const scratchName = "cocoroot-scratch"

// makeScratch makes the scratch disk a volume with a key of this boot. It comes
// after the secrets are wiped: what the disk holds is the host's, and the kernel
// reads it.
func (b *boot) makeScratch() error {
	if !b.hasScratch() {
		return nil
	}
	err := volume.WithRandomKey(scratchName, func(key string) error {
		return b.scratchVolume(key).Create()
	})
	if err != nil {
		return fmt.Errorf("%w; the disk has to be writable and have 300 MiB at least, and a kernel with modules needs cocoroot initrd --writable-disks", err)
	}
	return nil
}

func (b *boot) hasScratch() bool { return b.policy.Overlay.Scratch != (policy.Disk{}) }

// scratchVolume: nothing survives the guest, so nothing is written twice.
func (b *boot) scratchVolume(key string) volume.Volume {
	return volume.Volume{Name: scratchName, Disk: b.scratch.Path, Key: key, Layout: volume.Layout{Sections: 1}}
}

// mountScratch mounts the volume at a folder.
func (b *boot) mountScratch(at string) error {
	err := b.scratchVolume("").Mount(at, unix.MS_NOATIME, "")
	if err == nil {
		err = volume.Grow(at)
	}
	if err != nil {
		return &fatal.Error{Code: fatal.Scratch, Err: err}
	}
	return nil
}
