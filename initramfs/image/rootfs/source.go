package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxWindow is how much of its output, in bytes, a zstd stream may look back
// on: what zstd --long=27 makes, and what the zstd program takes by itself.
const maxWindow = 128 << 20

// source is what is to become a file system.
type source struct {
	folder string        // its absolute path, without links
	layout string        // or that of an OCI image layout
	file   *os.File      // else: it can be read from its start more than once
	ready  policy.FSType // "" when file is a tar
	size   int64         // bytes of a ready file system
	part   bool          // file was a partition
}

// open opens a source and finds out what it is. What can be read only once, such
// as a pipe, is copied to a file in dir first.
func open(ctx context.Context, name, dir string, o Options) (*source, error) {
	if name == Stdin {
		return o.spool(ctx, "standard input", dir, func() (io.Reader, error) { return o.Stdin, nil })
	}
	fi, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the root file system: %w", err)
	}
	switch mode := fi.Mode(); {
	case mode.IsDir():
		// The tools take a link for a link, and a name with a dash for an option.
		path, err := filepath.EvalSymlinks(name)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the root file system: %w", err)
		}
		_, errLayout := os.Stat(filepath.Join(path, v1.ImageLayoutFile))
		_, errIndex := os.Stat(filepath.Join(path, v1.ImageIndexFile))
		if errLayout == nil && errIndex == nil {
			return &source{layout: path}, nil
		}
		return &source{folder: path}, nil
	case mode.Type() == fs.ModeNamedPipe:
		return o.spool(ctx, name, dir, func() (io.Reader, error) { return os.Open(name) })
	case mode.IsRegular(), mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the root file system: %w", err)
		}
		return o.look(ctx, f, name, dir)
	}
	return nil, fmt.Errorf("cannot use %s: %w", name, errInput)
}

// spool copies what can be read only once. A pipe to which nobody writes does
// not hold up the end: what waits for it is left behind then.
func (o Options) spool(ctx context.Context, name, dir string, in func() (io.Reader, error)) (*source, error) {
	f, err := os.OpenFile(filepath.Join(dir, "source"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot keep %s: %w", name, err)
	}
	copied := make(chan error, 1)
	go func() {
		r, err := in()
		if err == nil {
			_, err = io.Copy(f, r)
		}
		if c, ok := r.(io.Closer); ok && err == nil {
			c.Close()
		}
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return o.look(ctx, f, name, dir)
}

// look finds out what a file is. A file system that is ready is taken from a disk image.
func (o Options) look(ctx context.Context, f *os.File, name, dir string) (_ *source, err error) {
	defer func() {
		if err != nil {
			f.Close()
			err = fmt.Errorf("cannot use %s: %w", name, err)
		}
	}()
	if f, err = rawOf(ctx, f, dir); err != nil {
		return nil, err
	}
	kind, size, err := fsimage.Detect(f)
	if !errors.Is(err, fsimage.ErrUnknown) {
		return &source{file: f, ready: kind, size: size}, err
	}
	d, err := readDisk(f)
	switch {
	case err != nil:
		return nil, err
	case d != nil:
		s, err := d.copyRoot(ctx, dir, o.Partition)
		if err == nil {
			f.Close()
		}
		return s, err
	}
	err = checkTar(f)
	if other := fsimage.Other(f); err != nil && other != "" {
		err = fmt.Errorf("%w: it is %s", fsimage.ErrUnknown, other)
	}
	return &source{file: f}, err
}

// keep hands the file over, which Close then leaves open.
func (s *source) keep() *os.File {
	f := s.file
	s.file = nil
	return f
}

func (s *source) Close() {
	if s.file != nil {
		s.file.Close()
	}
}

// checkTar checks that a file is a tar, compressed or not. POSIX.1-1988 ustar
// and GNU both have "ustar" at byte 257; a tar without entries is zeros.
func checkTar(f *os.File) error {
	r, err := decompressed(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return err
	}
	defer r.Close()
	var block [512]byte
	if _, err := io.ReadFull(r, block[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errInput
		}
		return fmt.Errorf("cannot decompress it: %w", err)
	}
	if string(block[257:262]) != "ustar" && block != [512]byte{} {
		return errInput
	}
	return nil
}

func decompressed(r io.Reader) (io.ReadCloser, error) {
	plain, _, err := files.Decompress(r, maxWindow)
	return plain, err
}
