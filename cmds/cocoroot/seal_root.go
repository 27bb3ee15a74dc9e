package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"cocoroot/initramfs/squashfs"
)

// makeRoot makes the file system of the root in dir, and returns it with its
// length in bytes. The file is the caller's to close.
func (o sealOptions) makeRoot(ctx context.Context, dir string) (*os.File, int64, error) {
	epoch, err := sourceDate()
	if err != nil {
		return nil, 0, err
	}
	plain := filepath.Join(dir, "fs")
	if err := squashfs.Make(ctx, o.root, plain, epoch); err != nil {
		return nil, 0, err
	}
	fs, err := os.Open(plain)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the file system: %w", err)
	}
	fi, err := fs.Stat()
	if err != nil {
		fs.Close()
		return nil, 0, fmt.Errorf("cannot read the file system: %w", err)
	}
	return fs, fi.Size(), nil
}

// sourceDate returns SOURCE_DATE_EPOCH, or 0: the file system's own time says
// nothing, and must not make two images of one root differ.
func sourceDate() (int64, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return 0, nil
	}
	epoch, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, usagef("SOURCE_DATE_EPOCH=%q is not a number of seconds", text)
	}
	return int64(epoch), nil
}
