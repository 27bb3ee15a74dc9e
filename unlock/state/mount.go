// Package state keeps what a guest has to find again: disks of the host's,
// encrypted and authenticated with keys that come from an entry of the owner's,
// mounted at folders of the image.
//
// The work is divided. The child that unseals has the entry: it reads the headers,
// derives the keys and gives them to the kernel (Prepare). The first process maps
// and mounts the disks when all secrets are wiped (Mount): so the kernel's code for
// file systems, which reads what the host may have written, never runs with a secret
// in memory.
//
// Nothing is made because something could not be opened: only the owner's order
// lets a state be created, and only where there is no header of it.
//
// Not protected: the host may go back to any earlier state of the whole disk, down
// to the floor that the owner orders; it sees which blocks are written, and may take
// the disk away.
package state

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/disk"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/root"
	"cocoroot/unlock/volume"
)

// VolumeName returns the name of the mapped device of a state.
func VolumeName(name string) string { return "cocoroot-state-" + name }

// flags of the mounts: programs and devices that another image has left there get
// no rights from it.
const flags = unix.MS_NOSUID | unix.MS_NODEV

// Mounted is a state that the image's program finds, for the status file.
type Mounted struct {
	Name       string `json:"name"`
	Path       string `json:"path"`
	Disk       string `json:"disk"`
	Generation uint64 `json:"generation"` // of btrfs, when it was mounted
	Created    bool   `json:"created"`    // at this start
}

// Mount maps and mounts the states, whose disks and plans are in the same order. After
// a failure, Unmount takes away what was there.
func Mount(states []policy.State, disks []disk.Disk, plans []Plan) ([]Mounted, error) {
	folders, err := resolve(states)
	if err != nil || len(states) == 0 {
		return nil, err
	}
	all := make([]Mounted, len(states))
	for i, s := range states {
		v := volume.Volume{Name: VolumeName(s.Name), Disk: disks[i].Path, Key: keyType + ":" + description(s.Name), Layout: plans[i].Layout}
		generation, err := mounting{plans[i], folders[i], v}.mount()
		if err != nil {
			return nil, fatal.Errorf(fatal.CodeOf(err, fatal.StateDisk), "cannot use the state %s on %s: %w", s.Name, disks[i].Path, err)
		}
		all[i] = Mounted{s.Name, s.Path, disks[i].Path, generation, plans[i].Create}
	}
	return all, forget(states)
}

// resolve returns the folders of the states in the new root, where links may lead.
func resolve(states []policy.State) ([]string, error) {
	var folders []string
	for _, s := range states {
		inside, outside, err := root.Folder(s.Path)
		if err == nil {
			err = policy.CheckStatePath(inside)
		}
		for _, other := range folders {
			if err == nil && (policy.Below(outside, other) || policy.Below(other, outside)) {
				err = errors.New("it leads to, or above, or below, the folder of another state")
			}
		}
		if err != nil {
			return nil, fatal.Errorf(fatal.StatePath, "cannot mount the state %s at %s: %w; make the folder in the image", s.Name, s.Path, err)
		}
		folders = append(folders, outside)
	}
	return folders, nil
}

// mounting is one state that is being mounted.
type mounting struct {
	Plan
	folder string
	volume volume.Volume
}

// mount returns the generation of what is mounted.
func (m mounting) mount() (uint64, error) {
	open := m.volume.Open
	if m.Create {
		open = m.volume.Create
	}
	if err := open(); errors.Is(err, volume.ErrSmall) {
		return 0, fatal.Errorf(fatal.StateSmall, "%w", err)
	} else if err != nil {
		return 0, fatal.Errorf(fatal.StateTable, "%w", err)
	}
	grow, err := m.check()
	if err != nil {
		return 0, err
	}
	var image unix.Stat_t
	if err := unix.Stat(m.folder, &image); err != nil {
		return 0, err
	}
	if err := m.volume.Mount(m.folder, flags, ""); err != nil {
		return 0, fatal.Errorf(fatal.StateCorrupt, "%w", err)
	}
	// The host may have written between the check and the mount.
	generation, err := volume.Generation(m.folder)
	if err != nil {
		return 0, fatal.Errorf(fatal.StateCorrupt, "%w", err)
	}
	if err := m.notBelowFloor(generation); err != nil {
		return 0, err
	}
	if grow {
		if err := volume.Grow(m.folder); err != nil {
			return 0, fatal.Errorf(fatal.StateCorrupt, "%w", err)
		}
	}
	if m.Create {
		if err := m.finish(image); err != nil {
			return 0, err
		}
	}
	return generation, m.writeCopies(m.volume.Disk)
}

// check looks at the file system before the kernel does. grow means that the disk
// has become larger than it.
func (m mounting) check() (grow bool, err error) {
	super, err := m.volume.Superblock()
	if err != nil {
		return false, fatal.Errorf(fatal.StateCorrupt, "%w", err)
	}
	if super.Size > super.Room {
		return false, fatal.Errorf(fatal.StateSmall, "the state takes %d bytes and its disk has room for %d; was it cut short when it was copied?", super.Size, super.Room)
	}
	return super.Size < super.Room, m.notBelowFloor(super.Generation)
}

func (m mounting) notBelowFloor(generation uint64) error {
	if generation < m.Floor {
		return fatal.Errorf(fatal.StateRollback, "it has the generation %d, and the owner's floor is %d: the host has brought back an older state", generation, m.Floor)
	}
	return nil
}

// finish gives the top folder of a new file system the owner and mode of the image's
// folder, and waits until all of it has reached the disk.
func (m mounting) finish(image unix.Stat_t) error {
	f, err := os.Open(m.folder)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	err = unix.Fchown(fd, int(image.Uid), int(image.Gid))
	if err == nil {
		err = unix.Fchmod(fd, image.Mode&0o7777)
	}
	if err == nil {
		err = unix.Syncfs(fd)
	}
	if err != nil {
		return fmt.Errorf("cannot write the new file system: %w", err)
	}
	return nil
}

// Unmount takes away what Mount has made, and the keys.
func Unmount(states []policy.State) error {
	if len(states) == 0 {
		return nil
	}
	errs := []error{forget(states)}
	folders, _ := resolve(states) // without one, nothing was mounted
	for i, s := range states {
		if i < len(folders) {
			_ = unix.Unmount(folders[i], 0)
		}
		errs = append(errs, volume.Volume{Name: VolumeName(s.Name)}.Remove())
	}
	return errors.Join(errs...)
}
