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

// failed says of an error what could not be written, without a temporary name.
func failed(path string, err *error) {
	if *err != nil {
		*err = fmt.Errorf("cannot write %s: %w", path, withoutName(*err))
	}
}

// Create starts one more file. An existing file is an error without force,
// and stays untouched until commit with it. Of a block device, what is on it is
// gone from the first write on; one that is in use, such as mounted, is refused.
func (all *Outputs) Create(path string, mode fs.FileMode, force bool) (_ *Output, err error) {
	defer failed(path, &err)
	o := &Output{path: path, force: force, device: IsBlockDevice(path)}
	fi, err := os.Lstat(path)
	switch {
	case err == nil && o.device && !force:
		return nil, fault.Hintf(errors.New("it is a block device"), "--force writes over what is on it")
	case err == nil && o.device:
		if o.File, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0); err != nil {
			return nil, err
		}
		all.files = append(all.files, o)
		return o, nil
	case err == nil && !fi.Mode().IsRegular():
		return nil, errors.New("it is there already, and is not a regular file")
	case err == nil && !force:
		return nil, fault.Hintf(fs.ErrExist, "--force replaces it")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for _, other := range all.files {
		if filepath.Clean(other.path) == filepath.Clean(path) {
			return nil, fault.Usagef("two outputs are to be written to it")
		}
	}
	if o.File, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*"); err != nil { // mode 0600
		return nil, err
	}
	all.Scratch.Add(o.Name())
	all.files = append(all.files, o)
	return o, o.Chmod(mode)
}

// IsBlockDevice reports whether a path leads to one.
func IsBlockDevice(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// Write is the file's; its errors have the name that the file is to have.
func (o *Output) Write(b []byte) (n int, err error) {
	defer failed(o.path, &err)
	return o.File.Write(b)
}

// WriteAt is the file's; its errors have the name that the file is to have.
func (o *Output) WriteAt(b []byte, off int64) (n int, err error) {
	defer failed(o.path, &err)
	return o.File.WriteAt(b, off)
}

// withoutName returns an error without the name that it has, which is said already, or temporary.
func withoutName(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Fits checks that a device has room for size bytes; a file has.
func (o *Output) Fits(size int64) (err error) {
	if !o.device {
		return nil
	}
	defer failed(o.path, &err)
	room, err := o.Seek(0, io.SeekEnd)
	if err == nil && room < size {
		err = fmt.Errorf("it has %d bytes, and the image %d; it was not touched", room, size)
	}
	return err
}

// Commit gives every file its name, after all of them are on the disk.
func (all *Outputs) Commit() error {
	for _, o := range all.files {
		if err := o.finish(); err != nil {
			return err
		}
	}
	for _, o := range all.files {
		if err := o.rename(); err != nil {
			return err
		}
	}
	all.files = nil
	return nil
}

func (o *Output) finish() (err error) {
	defer failed(o.path, &err)
	if err := o.Sync(); err != nil {
		return err
	}
	return o.Close()
}

func (o *Output) rename() (err error) {
	if o.device {
		return nil
	}
	defer failed(o.path, &err)
	flags := uint(unix.RENAME_NOREPLACE)
	if o.force {
		flags = 0
	}
	if err := unix.Renameat2(unix.AT_FDCWD, o.Name(), unix.AT_FDCWD, o.path, flags); err != nil {
		return err
	}
	o.placed = true
	dir, err := os.Open(filepath.Dir(o.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
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
			return err
		}
	}
	return o.Commit()
}
