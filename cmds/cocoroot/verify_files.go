package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"cocoroot/initramfs/fsimage"
	"cocoroot/unlock/luks2"
	"cocoroot/unlock/policy"
)

// Bounds of a walk through an image's files, for a corrupt file system may say
// anything: that a folder is in itself, that a file is longer than all disks.
const (
	mostNames  = 4 << 20
	mostDepth  = 256
	mostHollow = 64 // times the length of the file system; files may have holes
)

// filesCheck is what was found inside.
type filesCheck struct {
	Filesystem policy.FSType `json:"filesystem"`
	Size       int64         `json:"size"`  // bytes
	Names      int           `json:"names"` // of files, folders and whatever else
}

// readFiles sees that the decrypted file system is the one that the command
// line names, and reads every file of it.
func readFiles(ctx context.Context, r io.ReaderAt, info luks2.Info, want policy.FSType) (*filesCheck, error) {
	kind, size, err := fsimage.Detect(r)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the image holds no file system: %w", err)
	case kind != want:
		return nil, fmt.Errorf("the image holds %s, and the command line says rootfstype=%s", kind, want)
	case uint64(size) > info.Size:
		return nil, fmt.Errorf("the file system has %d bytes, and the image %d for it", size, info.Size)
	}
	tree, err := fsimage.Open(r, size)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	found := &filesCheck{Filesystem: kind, Size: size}
	left := size * mostHollow
	err = fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		found.Names++
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case found.Names > mostNames || strings.Count(path, "/") > mostDepth:
			return errors.New("it has no end")
		case !d.Type().IsRegular():
			return nil
		}
		f, err := tree.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(f, left+1))
		if left -= n; left < 0 {
			return errors.New("its files are longer than it can hold")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the file system: %w", err)
	}
	return found, nil
}
