package launch

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
)

const (
	// maxFirmware bounds the firmware, in bytes. OVMF has 4 MiB.
	maxFirmware = 64 << 20
	// maxFile bounds kernel and initrd, in bytes, because both are held in
	// memory. QEMU puts them below 4 GiB of the guest's.
	maxFile = 2 << 30
)

// input is what QEMU reads, as nameless files in memory: what was hashed
// cannot be exchanged before it boots, and the secret is in no file system.
// Those that are not used are nil.
type input struct {
	firmware, kernel, initrd *os.File
	hashes, secret           *os.File
	layout                   ovmf.Firmware
}

// load reads every file once. The caller closes what it returns.
func load(c Config) (_ *input, err error) {
	in := new(input)
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	if in.firmware, err = copyFile("firmware", c.Firmware, maxFirmware); err != nil {
		return nil, err
	}
	if in.kernel, err = copyFile("kernel", c.Kernel, maxFile); err != nil {
		return nil, err
	}
	if c.Initrd != "" {
		if in.initrd, err = copyFile("initrd", c.Initrd, maxFile); err != nil {
			return nil, err
		}
	}
	image, err := io.ReadAll(rewound(in.firmware))
	if err != nil {
		return nil, fmt.Errorf("cannot read the firmware back: %w", err)
	}
	if in.layout, err = ovmf.Parse(image); err != nil {
		return nil, fmt.Errorf("cannot use %s as firmware: %w", c.Firmware, err)
	}
	hashes, err := in.table(c)
	if err != nil {
		return nil, err
	}
	if err := c.checkTables(in.layout, hashes); err != nil {
		return nil, err
	}
	if in.hashes, err = memoryFile("hashes-table", hashes); err != nil {
		return nil, err
	}
	in.secret, err = memoryFile("secret-table", c.SecretTable)
	return in, err
}

// table returns the bytes of the hashes table, empty for none.
func (in *input) table(c Config) ([]byte, error) {
	if c.HashesTable != nil {
		return c.HashesTable, nil
	}
	var initrd io.Reader
	if in.initrd != nil {
		initrd = rewound(in.initrd)
	}
	t, err := measure.NewHashesTable(rewound(in.kernel), initrd, c.Cmdline)
	if err != nil {
		return nil, err
	}
	return t.Marshal(), nil
}

// rewound reads f from its start, without moving the offset of f.
func rewound(f *os.File) io.Reader { return io.NewSectionReader(f, 0, 1<<62) }

// copyFile returns a copy of the file at path that nobody can change.
func copyFile(what, path string, limit int64) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the %s: %w", what, err)
	}
	defer src.Close()
	if fi, err := src.Stat(); err == nil && fi.Mode()&os.ModeDevice != 0 {
		return nil, fmt.Errorf("cannot read the %s: %w: %s is a device", what, ErrConfig, path)
	}
	f, err := newMemoryFile(what)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(src, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%w: %s is longer than %d bytes", ErrConfig, path, limit)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read the %s: %w", what, err)
	}
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, all); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot seal the copy of the %s: %w", what, err)
	}
	return f, nil
}

// memoryFile returns a file with the bytes of b, or nil when there are none.
func memoryFile(name string, b []byte) (*os.File, error) {
	if len(b) == 0 {
		return nil, nil
	}
	f, err := newMemoryFile(name)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(b); err != nil {
		wipe(f)
		f.Close()
		return nil, fmt.Errorf("cannot write the %s to memory: %w", name, err)
	}
	return f, nil
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
	if in.secret == nil {
		return nil
	}
	f := in.secret
	in.secret = nil
	defer f.Close()
	return wipe(f)
}

func wipe(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot wipe the secret table: %w", err)
	}
	if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return fmt.Errorf("cannot wipe the secret table: %w", err)
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("cannot wipe the secret table: %w", err)
	}
	return nil
}

// close gives everything back, the secret first. It may be called twice.
func (in *input) close() {
	in.wipeSecret() // nothing is left to do about an error
	for _, f := range []*os.File{in.firmware, in.kernel, in.initrd, in.hashes} {
		if f != nil {
			f.Close()
		}
	}
}
