// Package rootfs makes the file system of an image from what an owner has: a
// folder, a tar, an OCI image, or a file system that is ready.
//
// The bytes of a source decide what it is, not its name:
//
//	folder                      squashfs, erofs or ext4, by the stock tools
//	tar, also .gz, .zst, .xz    squashfs; also from standard input
//	OCI image layout            squashfs; a folder, or a tar of one, as above
//	docker's own archive        squashfs; a tar, as above
//	squashfs, erofs, ext4       taken as it is; a file or a block device
//	disk image, raw or qcow2    the file system of its root partition, as it is
//
// Owners, modes, extended attributes, hard links and device nodes are those of
// the source, and making it takes no privilege: of a tar and of an OCI image,
// nothing is unpacked. The same source gives the same bytes with the same
// version of the stock tool.
//
// Nothing here is encrypted or authenticated. The blobs of an OCI image are
// compared with their digests; who made the image is not checked.
package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Errors returned by Make.
var (
	// ErrFormat is for a kind of file system that cannot be made of a source.
	ErrFormat = errors.New("cannot make this file system from this source")
	// ErrOCI is for an OCI image layout or docker's own archive that is incomplete,
	// contradicts itself, or does not say which image is meant.
	ErrOCI = errors.New("cannot use the container image")
	// ErrChanged is for a source that was changed while it was read.
	ErrChanged = errors.New("the root file system changed while it was read")
	// ErrACL is for a folder with POSIX ACLs that is to be a squashfs: without
	// them, the modes of its files say something else.
	ErrACL = errors.New("squashfs cannot keep a POSIX ACL")
	// ErrPartition is for a disk image whose root is not the only partition of its
	// type, or has not the number that was asked for.
	ErrPartition = errors.New("cannot tell which partition is the root")
)

var (
	errInput = errors.New("not a folder, a tar, an OCI image layout, a disk image, a squashfs, an erofs or an ext4")
	errTar   = errors.New("the tar is malformed")
)

// Stdin is the name of the source that is read from Options.Stdin.
const Stdin = "-"

// Options says what to make.
type Options struct {
	Type      policy.FSType // "": squashfs, or what is ready
	Epoch     int64         // time of the file system itself, seconds since 1970
	Owned     bool          // all files of a folder belong to root
	Level     int           // zstd's, 1 to MaxLevel, for a squashfs; 0: DefaultLevel
	Image     string        // which image of an OCI layout: a tag or a digest; "": the only one
	Partition int           // of a disk image, its number from 1; 0: what its type says is the root
	Stdin     io.Reader     // of the source Stdin

	// Container is shown the files and the configuration of an OCI image, and
	// returns a tar that goes over them; an empty one changes nothing. It may be nil.
	Container func(root *fsimage.Node, config v1.ImageConfig) ([]byte, error)
	// Look is shown the root of the files that are to be in the image, which will
	// be of a type; its error ends Make. It may be nil.
	Look func(root *fsimage.Node, kind policy.FSType) error
}

// Image is a finished file system.
type Image struct {
	File *os.File      // the file system begins at its first byte
	Size int64         // bytes of File that are the file system
	Type policy.FSType // what it is

	// Warnings says what of the source is not in it, for people.
	Warnings []string

	before fs.FileInfo // of a ready file system that is not in the caller's folder; or nil
}

// Close closes the file.
func (i *Image) Close() error { return i.File.Close() }

// Check returns ErrChanged when a ready file system is not as it was when Make
// returned it.
func (i *Image) Check() error {
	if i.before == nil {
		return nil
	}
	after, err := i.File.Stat()
	if err != nil {
		return err
	}
	if stamp(after) != stamp(i.before) {
		return ErrChanged
	}
	return nil
}

// Make makes the file system of source, the name of a file or a folder, or
// Stdin. Whatever it writes lies in dir, which is the caller's to remove when
// the image is closed. The program of a stock tool ends with ctx.
func Make(ctx context.Context, source, dir string, o Options) (*Image, error) {
	s, err := open(ctx, source, dir, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	switch {
	case o.Partition != 0 && !s.part:
		return nil, fmt.Errorf("%w: %s is not a disk image with partitions", ErrPartition, source)
	case s.folder != "":
		return o.fromFolder(ctx, s.folder, dir)
	case s.ready != "":
		return o.fromReady(ctx, s, dir)
	}
	layers, config, err := o.layers(ctx, s, dir)
	if err != nil {
		return nil, err
	}
	if o.Type != "" && o.Type != policy.Squashfs {
		return nil, fmt.Errorf("%w: of a tar and of an OCI image it is squashfs, %s takes a folder", ErrFormat, o.Type)
	}
	return squashfsOfLayers(ctx, layers, config, filepath.Join(dir, "fs"), o)
}

// fromFolder makes a file system of a folder, and checks that the folder stayed
// as it was.
func (o Options) fromFolder(ctx context.Context, source, dir string) (*Image, error) {
	before, err := fingerprint(ctx, source)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "fs")
	kind := cmp.Or(o.Type, policy.Squashfs)
	if kind == policy.Squashfs && before.acl != "" {
		return nil, fmt.Errorf("%w: %s", ErrACL, before.acl)
	}
	if o.Look != nil {
		if err := o.lookIn(source, kind); err != nil {
			return nil, err
		}
	}
	switch kind {
	case policy.EROFS:
		err = erofsOfFolder(ctx, source, out, before.latest, o)
	case policy.Ext4:
		err = ext4OfFolder(ctx, source, out, before.size, before.entries, o)
	default:
		err = squashfsOfFolder(ctx, source, out, o)
	}
	if err != nil {
		return nil, err
	}
	after, err := fingerprint(ctx, source)
	if err != nil {
		return nil, err
	}
	if after != before {
		return nil, ErrChanged
	}
	return made(out)
}

func made(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	kind, size, err := fsimage.Detect(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use what was made: %w", err)
	}
	return &Image{File: f, Size: size, Type: kind}, nil
}

func (o Options) fromReady(ctx context.Context, s *source, dir string) (*Image, error) {
	if o.Type != "" && o.Type != s.ready {
		return nil, fmt.Errorf("%w: it is %s already", ErrFormat, s.ready)
	}
	before, err := s.file.Stat()
	var end int64
	if err == nil {
		end, err = s.file.Seek(0, io.SeekEnd) // a block device has no length in its inode
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	if end < s.size {
		return nil, fmt.Errorf("cannot use the file system: %w: it has %d bytes, and the file %d", fsimage.ErrCorrupt, s.size, end)
	}
	if o.Look != nil {
		if err := o.lookAt(ctx, s.file, s.ready, s.size); err != nil {
			return nil, err
		}
	}
	if filepath.Dir(s.file.Name()) == filepath.Clean(dir) {
		before = nil // a copy, which has no name when it is looked at again
	}
	return &Image{File: s.keep(), Size: s.size, Type: s.ready, before: before}, nil
}
