package launch

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
)

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
	}{{"firmware", c.Firmware, files.MaxImage}, {"kernel", c.Kernel, measure.MaxFile}, {"initrd", c.Initrd, measure.MaxFile}} {
		if f.path == "" {
			continue // there is no initrd
		}
		src, err := files.OpenFinite(f.path)
		if err == nil {
			err = in.keep(f.name, src, f.limit)
			src.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the %s: %w", f.name, err)
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
	for name, table := range map[string][]byte{"hashes": hashes, "secret": c.SecretTable} {
		if len(table) == 0 {
			continue // nor a file
		}
		if err := in.keep(name, bytes.NewReader(table), int64(len(table))); err != nil {
			return nil, fmt.Errorf("cannot keep the %s table: %w", name, err)
		}
	}
	return in, nil
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

// keep makes a file of what src has, at most limit bytes. Nobody can change it, but
// for the secret, which is to be wiped.
func (in *input) keep(name string, src io.Reader, limit int64) error {
	fd, err := unix.MemfdCreate("cocoroot-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("cannot make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	in.files[name] = f
	n, err := io.Copy(f, io.LimitReader(src, limit+1))
	switch {
	case err != nil:
		return err
	case n > limit:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrConfig, limit)
	case name == "secret":
		return nil
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return err
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
