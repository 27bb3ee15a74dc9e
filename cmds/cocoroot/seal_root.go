package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/unlock/policy"
)

// rootFlags adds the options about the root file system.
func (o *sealOptions) rootFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.fs, "fs", "", "file system to make: squashfs; of a folder, also erofs or ext4 (default: squashfs; one that is ready stays as it is)")
	flags.IntVar(&o.level, "compression", rootfs.DefaultLevel, "of a squashfs: zstd's level, 1 to 22; 15 makes it 5 % smaller and takes seven times as long")
	flags.BoolVar(&o.rootOwned, "root-owned", false, "all files of a folder belong to root in the image")
	flags.StringVar(&o.ociImage, "image", "", "which image of an OCI layout: its tag or its digest (default: the only one)")
}

// makeRoot makes the file system of the root, or takes one that is ready. The
// image is the caller's to close, and its file has no name any more: nothing
// of the plain file system is left, however this process ends.
func (o sealOptions) makeRoot(ctx context.Context) (*rootfs.Image, error) {
	epoch, err := sourceDate()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.cmdlineOut), ".cocoroot-seal-*") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for the file system: %w", err)
	}
	defer os.RemoveAll(dir)
	files.ScratchOf(ctx).Add(dir)
	image, err := rootfs.Make(ctx, o.root, dir, rootfs.Options{
		Type: policy.FSType(o.fs), Epoch: epoch, Owned: o.rootOwned, Level: o.level, Image: o.ociImage, Stdin: os.Stdin,
	})
	switch {
	case errors.Is(err, rootfs.ErrFormat):
		return nil, fault.Usagef("--fs %s: %w", o.fs, err)
	case errors.Is(err, rootfs.ErrOCI) && o.ociImage == "":
		return nil, fault.Hintf(err, "--image TAG or --image sha256:… chooses one of several images")
	case errors.Is(err, fsimage.ErrRecovery):
		return nil, fault.Hintf(err, "e2fsck -f -y %s replays it", o.root)
	case errors.Is(err, rootfs.ErrACL):
		return nil, fault.Hintf(err, "--fs erofs and --fs ext4 keep ACLs; setfacl -R -b %s removes them", o.root)
	case errors.Is(err, rootfs.ErrChanged):
		return nil, fault.Hintf(err, "seal a copy that nothing writes to")
	}
	return image, err
}

// checkRoot refuses options about the root that cannot be meant, before there
// is any work.
func (o sealOptions) checkRoot() error {
	switch policy.FSType(o.fs) {
	case "", policy.Squashfs, policy.EROFS, policy.Ext4:
	default:
		return fault.Usagef("there is no --fs %.32q; it is squashfs, erofs or ext4", o.fs)
	}
	if o.rootOwned && policy.FSType(o.fs) == policy.Ext4 {
		return fault.Usagef("--root-owned is for squashfs and erofs: mke2fs takes the owners that the files have")
	}
	if o.level < 1 || o.level > rootfs.MaxLevel {
		return fault.Usagef("--compression %d is not a level from 1 to %d", o.level, rootfs.MaxLevel)
	}
	if o.root == rootfs.Stdin {
		return nil
	}
	if err := o.checkInputs(); err != nil {
		return err
	}
	source, err := filepath.EvalSymlinks(o.root)
	if err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(filepath.Dir(o.image))
	if err != nil {
		return nil // said when the image is made
	}
	if source, err = filepath.Abs(source); err != nil {
		return err
	}
	if target, err = filepath.Abs(target); err != nil {
		return err
	}
	if target == source || strings.HasPrefix(target, strings.TrimSuffix(source, "/")+"/") {
		return fault.Usagef("the image cannot be written to %s: it is in the folder that is to be sealed", target)
	}
	return nil
}

// checkInputs refuses outputs that would take the place of what they are made
// from.
func (o sealOptions) checkInputs() error {
	outs := []string{o.image, o.cmdlineOut, o.manifestOut}
	if o.makesKey() {
		outs = append(outs, o.keyOut)
	}
	for _, out := range outs {
		there, err := os.Stat(out)
		if err != nil {
			continue // it does not exist yet, or is a matter of create
		}
		for _, in := range []string{o.root, o.keyFile, o.passphraseFile, o.seedFile} {
			if fi, err := os.Stat(in); err == nil && os.SameFile(fi, there) {
				return fault.Usagef("%s cannot be written: it is %s, which is to be read", out, in)
			}
		}
	}
	return nil
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
		return 0, fault.Usagef("SOURCE_DATE_EPOCH=%q is not a number of seconds", text)
	}
	return int64(epoch), nil
}
