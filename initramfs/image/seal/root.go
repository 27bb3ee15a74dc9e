package seal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/initramfs/image/rootfs"
	"cocoroot/unlock/policy"
)

// makeRoot makes the file system of the root, or takes one that is ready. The
// image is the caller's to close, and its file has no name any more: nothing
// of the plain file system is left, however this process ends. It is made beside the
// manifest, which in a guest's folder is the owner's half.
func (o *Options) makeRoot(ctx context.Context, tell Observer) (*rootfs.Image, error) {
	epoch, err := sourceDate()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.ManifestOut), ".cocoroot-seal-*") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for the file system in %s: %w", filepath.Dir(o.ManifestOut), errors.Unwrap(err))
	}
	defer os.RemoveAll(dir)
	files.ScratchOf(ctx).Add(dir)
	defer watchSize(dir, tell)()
	image, err := rootfs.Make(ctx, o.Root, dir, rootfs.Options{
		Type: policy.FSType(o.FS), Epoch: epoch, Owned: o.RootOwned, Level: o.Level, Image: o.OCIImage, Partition: o.Partition, Stdin: os.Stdin,
		Container: o.container, Look: o.auditRoot,
	})
	if err != nil {
		err = files.Renamed{Err: err, From: dir + "/"}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return nil, fault.Hintf(errors.New("cannot make the file system: no space left on device"), "%s has to have room for the file system and the image, and for the layers of a container image", filepath.Dir(o.ManifestOut))
	case errors.Is(err, rootfs.ErrFormat):
		return nil, fault.Usagef("--fs %s: %w", o.FS, err)
	case errors.Is(err, rootfs.ErrOCI) && o.OCIImage == "":
		return nil, fault.Hintf(err, "--image TAG or --image sha256:… chooses one of several images")
	case errors.Is(err, fsimage.ErrRecovery):
		return nil, fault.Hintf(err, "e2fsck -f -y %[1]s replays it; copy a partition of a raw disk first: dd if=%[1]s of=COPY bs=1M iflag=skip_bytes skip=BYTE, and seal the copy", fault.ShellWord(o.Root))
	case errors.Is(err, rootfs.ErrPartition):
		return nil, fault.Hintf(err, "--partition N takes the one with this number, of a disk image")
	case errors.Is(err, fsimage.ErrUnknown):
		return nil, fault.Hintf(err, "mount it, and seal the folder: seal then makes a squashfs of what is in it")
	case errors.Is(err, rootfs.ErrACL):
		return nil, fault.Hintf(err, "--fs erofs and --fs ext4 keep ACLs; setfacl -R -b %s removes them", fault.ShellWord(o.Root))
	case errors.Is(err, rootfs.ErrChanged):
		return nil, fault.Hintf(err, "seal a copy that nothing writes to")
	}
	return image, err
}

// watchSize tells how much has been written into a folder, until the function
// that it returns has returned.
func watchSize(dir string, tell Observer) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			case <-time.After(200 * time.Millisecond):
			}
			var size int64
			entries, _ := os.ReadDir(dir) // what is not there any more counts nothing
			for _, e := range entries {
				if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
					size += fi.Sys().(*syscall.Stat_t).Blocks * 512 // some files have holes
				}
			}
			tell.At(size, 0)
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// checkRoot refuses options about the root that cannot be meant, before there
// is any work.
func (o Options) checkRoot() error {
	switch policy.FSType(o.FS) {
	case "", policy.Squashfs, policy.EROFS, policy.Ext4:
	default:
		return fault.Usagef("there is no --fs %.32q; it is squashfs, erofs or ext4", o.FS)
	}
	if o.RootOwned && policy.FSType(o.FS) == policy.Ext4 {
		return fault.Usagef("--root-owned is for squashfs and erofs: mke2fs takes the owners that the files have")
	}
	if o.Level < 1 || o.Level > rootfs.MaxLevel {
		return fault.Usagef("--compression %d is not a level from 1 to %d", o.Level, rootfs.MaxLevel)
	}
	if o.Root == rootfs.Stdin {
		return nil
	}
	if err := o.checkInputs(); err != nil {
		return err
	}
	if _, err := os.Stat(o.Root); err != nil {
		return fmt.Errorf("cannot read %s: %w", o.Root, errors.Unwrap(err))
	}
	source, err := filepath.EvalSymlinks(o.Root)
	if err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(filepath.Dir(o.Image))
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
func (o Options) checkInputs() error {
	outs := []string{o.Image, o.CmdlineOut, o.ManifestOut}
	if o.MakesKey() {
		outs = append(outs, o.KeyOut)
	}
	for _, out := range outs {
		there, err := os.Stat(out)
		if err != nil {
			continue // it does not exist yet, or is a matter of create
		}
		for _, in := range []string{o.Root, o.KeyFile, o.PassphraseFile, o.SeedFile} {
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
