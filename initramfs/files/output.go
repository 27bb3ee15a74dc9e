// Package files reads and writes the owner's files: what is read is bounded, and
// what is written appears whole, or not at all.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
)

// Output is a file that exists under its name only once it is whole: it is
// written under a temporary name beside it, synced, and renamed.
type Output struct {
	*os.File
	path   string
	force  bool
	placed bool // it has its name
	device bool // it is a block device, written to where it stands
}

// Outputs are files that appear together or not at all. Only what was replaced
// with force cannot be taken back.
type Outputs struct {
	Scratch *Scratch // where an interrupt can find them before that; or nil
	files   []*Output
}

// Create starts one more file. An existing file is an error without force,
// and stays untouched until commit with it.
func (all *Outputs) Create(path string, mode fs.FileMode, force bool) (*Output, error) {
	fi, err := os.Lstat(path)
	switch {
	case err == nil && IsBlockDevice(path):
		return all.createDevice(path, force)
	case err == nil && !fi.Mode().IsRegular():
		return nil, fmt.Errorf("cannot write %s: it is there and is not a regular file", path)
	case err == nil && !force:
		return nil, fault.Hintf(fmt.Errorf("cannot write %s: %w", path, fs.ErrExist), "--force replaces it")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	for _, o := range all.files {
		if filepath.Clean(o.path) == filepath.Clean(path) {
			return nil, fault.Usagef("two outputs are to be written to %s", path)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, withoutName(err))
	}
	all.Scratch.Add(f.Name())
	o := &Output{File: f, path: path, force: force}
	all.files = append(all.files, o)
	if err := f.Chmod(mode); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, withoutName(err))
	}
	return o, nil
}

// createDevice opens a block device. What is on it is gone from the first write
// on; one that is mounted, or in use by the kernel otherwise, is refused.
func (all *Outputs) createDevice(path string, force bool) (*Output, error) {
	if !force {
		return nil, fault.Hintf(fmt.Errorf("cannot write %s: it is a block device", path), "--force writes over what is on it")
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", path, err)
	}
	o := &Output{File: f, path: path, force: true, device: true}
	all.files = append(all.files, o)
	return o, nil
}

// IsBlockDevice reports whether a path leads to one.
func IsBlockDevice(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// Write is the file's; its errors have the name that the file is to have.
func (o *Output) Write(b []byte) (int, error) {
	n, err := o.File.Write(b)
	return n, o.named(err)
}

// WriteAt is the file's; its errors have the name that the file is to have.
func (o *Output) WriteAt(b []byte, off int64) (int, error) {
	n, err := o.File.WriteAt(b, off)
	return n, o.named(err)
}

func (o *Output) named(err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "write", Path: o.path, Err: withoutName(err)}
}

// withoutName returns an error without the temporary name that it has.
func withoutName(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Fits checks that a device has room for size bytes; a file has.
func (o *Output) Fits(size int64) error {
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

// Commit gives every file its name, after all of them are on the disk.
func (all *Outputs) Commit() error {
	for _, o := range all.files {
		if err := o.Sync(); err != nil {
			return fmt.Errorf("cannot write %s: %w", o.path, withoutName(err))
		}
		if err := o.Close(); err != nil {
			return fmt.Errorf("cannot write %s: %w", o.path, withoutName(err))
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

func (o *Output) rename() error {
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

// Discard removes what was not committed.
func (all *Outputs) Discard() {
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

// File is a file to be written.
type File struct {
	Path string
	mode fs.FileMode
	data []byte
}

// Public returns a file that everyone may read.
func Public(path string, data []byte) File { return File{path, 0o644, data} }

// Secret returns a file that only its owner may read.
func Secret(path string, data []byte) File { return File{path, 0o600, data} }

// Write writes all of the files or none. An existing one is replaced only with
// force.
func Write(force bool, all ...File) error {
	var o Outputs
	defer o.Discard()
	for _, n := range all {
		f, err := o.Create(n.Path, n.mode, force)
		if err != nil {
			return err
		}
		if _, err := f.Write(n.data); err != nil {
			return fmt.Errorf("cannot write %s: %w", n.Path, err)
		}
	}
	return o.Commit()
}
