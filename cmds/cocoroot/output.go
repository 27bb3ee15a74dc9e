package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// output is a file that exists under its name only once it is whole: it is
// written under a temporary name beside it, synced, and renamed.
type output struct {
	*os.File
	path   string
	force  bool
	placed bool // it has its name
	device bool // it is a block device, written to where it stands
}

// outputs are files that appear together or not at all. Only what was replaced
// with force cannot be taken back.
type outputs struct {
	files   []*output
	scratch *scratch // where an interrupt can find them before that; or nil
}

// create starts one more file. An existing file is an error without force,
// and stays untouched until commit with it.
func (all *outputs) create(path string, mode fs.FileMode, force bool) (*output, error) {
	fi, err := os.Lstat(path)
	switch {
	case err == nil && isBlockDevice(path):
		return all.createDevice(path, force)
	case err == nil && !fi.Mode().IsRegular():
		return nil, fmt.Errorf("cannot write %s: it is there and is not a regular file", path)
	case err == nil && !force:
		return nil, hinted(fmt.Errorf("cannot write %s: %w", path, fs.ErrExist), "--force replaces it")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	for _, o := range all.files {
		if filepath.Clean(o.path) == filepath.Clean(path) {
			return nil, usagef("two outputs are to be written to %s", path)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	all.scratch.add(f.Name())
	o := &output{File: f, path: path, force: force}
	all.files = append(all.files, o)
	if err := f.Chmod(mode); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	return o, nil
}

// createDevice opens a block device. What is on it is gone from the first write
// on; one that is mounted, or in use by the kernel otherwise, is refused.
func (all *outputs) createDevice(path string, force bool) (*output, error) {
	if !force {
		return nil, hinted(fmt.Errorf("cannot write %s: it is a block device", path), "--force writes over what is on it")
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	o := &output{File: f, path: path, force: true, device: true}
	all.files = append(all.files, o)
	return o, nil
}

// isBlockDevice reports whether a path leads to one.
func isBlockDevice(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// fits sees that a device has room for size bytes; a file has.
func (o *output) fits(size int64) error {
	if !o.device {
		return nil
	}
	room, err := o.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", o.path, err)
	}
	if room < size {
		return fmt.Errorf("cannot write %s: it has %d bytes, and the image %d; it was not touched", o.path, room, size)
	}
	return nil
}

// commit gives every file its name, after all of them are on the disk.
func (all *outputs) commit() error {
	for _, o := range all.files {
		if err := o.Sync(); err != nil {
			return fmt.Errorf("cannot write %s: %w", o.path, err)
		}
		if err := o.Close(); err != nil {
			return fmt.Errorf("cannot write %s: %w", o.path, err)
		}
	}
	for _, o := range all.files {
		if o.device {
			continue
		}
		if err := o.rename(); err != nil {
			return err
		}
	}
	all.files = nil
	return nil
}

func (o *output) rename() error {
	flags := uint(unix.RENAME_NOREPLACE)
	if o.force {
		flags = 0
	}
	if err := unix.Renameat2(unix.AT_FDCWD, o.Name(), unix.AT_FDCWD, o.path, flags); err != nil {
		return fmt.Errorf("cannot write %s: %w", o.path, err)
	}
	o.placed = true
	dir, err := os.Open(filepath.Dir(o.path))
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", o.path, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", o.path, err)
	}
	return nil
}

// discard removes what was not committed.
func (all *outputs) discard() {
	for _, o := range all.files {
		o.Close()
		if o.device {
			continue
		}
		os.Remove(o.Name())
		if o.placed && !o.force {
			os.Remove(o.path)
		}
	}
	all.files = nil
}

// isTerminal reports whether w is a terminal, where progress may be shown.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
