package launch

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
)

// maxFile bounds kernel and initrd, in bytes, because both are held in memory. QEMU
// puts them below 4 GiB of the guest's.
const maxFile = 2 << 30

// input is what QEMU reads, as nameless files in memory: what was hashed
// cannot be exchanged before it boots, and the secret is in no file system.
type input struct {
	files  map[string]*os.File // firmware, kernel, initrd, hashes, secret; those that are used
	layout ovmf.Firmware
}

// load reads every file once. The caller closes what it returns.
func load(c Config) (_ *input, err error) {
	in := &input{files: make(map[string]*os.File)}
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	for _, f := range []struct {
		name, path string
		limit      int64
	}{{"firmware", c.Firmware, files.MaxImage}, {"kernel", c.Kernel, maxFile}, {"initrd", c.Initrd, maxFile}} {
		if f.path == "" {
			continue // there is no initrd
		}
		if in.files[f.name], err = copyFile(f.name, f.path, f.limit); err != nil {
			return nil, err
		}
	}
	image, err := io.ReadAll(in.read("firmware"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the firmware back: %w", err)
	}
	hashes, err := in.table(c)
	if err != nil {
		return nil, err
	}
	if in.layout, err = c.layout(image, len(hashes)); err != nil {
		return nil, err
	}
	if err := in.keep("hashes", hashes); err != nil {
		return nil, err
	}
	return in, in.keep("secret", c.SecretTable)
}

// table returns the bytes of the hashes table, empty for none.
func (in *input) table(c Config) ([]byte, error) {
	if c.HashesTable != nil {
		return c.HashesTable, nil
	}
	t, err := measure.NewHashesTable(in.read("kernel"), in.read("initrd"), c.Cmdline)
	if err != nil {
		return nil, err
	}
	return t.Marshal(), nil
}

// read reads a file from its start, without moving its offset; nil without the
// file.
func (in *input) read(name string) io.Reader {
	if f := in.files[name]; f != nil {
		return io.NewSectionReader(f, 0, 1<<62)
	}
	return nil
}

// layout returns where a firmware wants the tables, and checks that they fit.
func (c Config) layout(image []byte, hashes int) (ovmf.Firmware, error) {
	fw, err := ovmf.Parse(image)
	if err != nil {
		return fw, fmt.Errorf("cannot use %s as firmware: %w", c.Firmware, err)
	}
	if err := fw.Secret.Fits(len(c.SecretTable)); err != nil {
		return fw, fmt.Errorf("cannot place the secret table in %s: %w", c.Firmware, err)
	}
	if err := fw.Hashes.Fits(hashes); err != nil {
		return fw, fmt.Errorf("cannot place the hashes table in %s: %w", c.Firmware, err)
	}
	return fw, nil
}

// copyFile returns a copy of the file at path that nobody can change.
func copyFile(what, path string, limit int64) (_ *os.File, err error) {
	src, err := files.OpenFinite(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the %s: %w", what, err)
	}
	defer src.Close()
	f, err := newMemoryFile(what)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(src, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%w: %s is longer than %d bytes", ErrConfig, path, limit)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read the %s: %w", what, err)
	}
	return f, nil
}

// keep makes a file with the bytes of b, or none when there are none.
func (in *input) keep(name string, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	f, err := newMemoryFile(name)
	if err != nil {
		return err
	}
	in.files[name] = f
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("cannot write the %s table to memory: %w", name, err)
	}
	return nil
}

func newMemoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("cocoroot-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// wipeSecret empties the secret's file for everybody who has it open. QEMU
// keeps its own copy, in the guest's memory and its own.
func (in *input) wipeSecret() error {
	f := in.files["secret"]
	if f == nil {
		return nil
	}
	delete(in.files, "secret")
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("cannot wipe the secret table: %w", err)
	}
	return nil
}

// close gives everything back, the secret first. It may be called twice.
func (in *input) close() {
	in.wipeSecret() // nothing is left to do about an error
	for _, f := range in.files {
		f.Close()
	}
}
