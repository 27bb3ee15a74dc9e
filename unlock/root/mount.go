// Package root mounts the unlocked image and makes it the root.
//
// What runs there afterwards is up to the owner; nothing here protects it from
// itself.
package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"

	"cocoroot/unlock/policy"
)

// Folders that the boot uses. All of them are hidden or moved when the image's
// init starts.
const (
	// RunDir holds the status file.
	RunDir = "/run/cocoroot"
	// newRoot is where the new root is assembled.
	newRoot = "/newroot"
	lower   = "/lower" // the image
	upper   = "/upper" // a tmpfs or the scratch disk, with the overlay's two folders
)

const noExec = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// apiMount is a file system of the kernel, and whether it moves to the new
// root. What is mounted below another one moves with it.
type apiMount struct {
	path, fsType, data string
	flags              uintptr
	moves              bool
}

var apiMounts = []apiMount{
	{"/proc", "proc", "", noExec, true},
	{"/sys", "sysfs", "", noExec, true},
	{"/sys/kernel/security", "securityfs", "", noExec, false},
	{"/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID, true},
	{"/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV, true},
}

// MountAPI mounts proc, sysfs, securityfs, devtmpfs and a tmpfs on /run. It
// goes on after a failure, and an existing mount is not one.
func MountAPI() error {
	var errs []error
	for _, m := range apiMounts {
		err := os.MkdirAll(m.path, 0o755)
		if err == nil {
			_, err = mount.Mount(m.fsType, m.path, m.fsType, m.data, m.flags)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("cannot mount %s: %w", m.fsType, err))
		}
	}
	return errors.Join(errs...)
}

// Mount mounts the image on device read-only and puts the writable layer of
// the policy over it. When that is a disk, scratch mounts it at a folder.
func Mount(device string, p policy.Policy, scratch func(at string) error) error {
	for _, dir := range []string{newRoot, lower, upper} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	writable := p.Overlay != policy.Overlay{}
	image := newRoot
	if writable {
		image = lower
	}
	_, err := mount.Mount(device, image, string(p.FSType), p.RootFlags, unix.MS_RDONLY)
	if err == nil && p.FSType == policy.EROFS {
		err = refuseCompression(filepath.Join(erofsDir, filepath.Base(device)))
	}
	if err != nil {
		return fmt.Errorf("cannot mount the image: %w", err)
	}
	if !writable {
		return nil
	}
	if err := mountOverlay(p.Overlay, scratch); err != nil {
		return fmt.Errorf("cannot mount the writable layer: %w", err)
	}
	return nil
}

// erofsDir has a folder for each mounted erofs, named as its device (Linux 5.16
// and later).
const erofsDir = "/sys/fs/erofs"

// refuseCompression refuses an erofs on a kernel that could decompress it.
//
// Linux reads compressed data into the pages where the file itself is to be.
// When one of several reads fails, it drops what the others brought and reads
// again, into pages that hold plaintext; see SECURITY.md for who then sees it.
// No superblock says for certain that nothing is compressed, but a kernel
// without EROFS_FS_ZIP reads no such file, and lacks this attribute.
func refuseCompression(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "sync_decompress")); !errors.Is(err, os.ErrNotExist) {
		return errors.New("this kernel reads compressed erofs, whose plaintext the host could get to see; seal the root as squashfs or ext4")
	}
	return nil
}

// Unmount detaches whatever Mount has mounted.
func Unmount() {
	for _, dir := range []string{newRoot, lower, upper} {
		_ = mount.Unmount(dir, false, true)
	}
}

// mountOverlay puts a tmpfs or the scratch disk over the image. The overlay
// keeps both layers in use, so that neither has to stay visible.
func mountOverlay(o policy.Overlay, scratch func(at string) error) error {
	if o.RAM {
		data := "mode=0755"
		if o.Size != "" { // half the memory otherwise
			data += ",size=" + o.Size
		}
		scratch = func(at string) error {
			_, err := mount.Mount("cocoroot", at, "tmpfs", data, 0)
			return err
		}
	}
	if err := scratch(upper); err != nil {
		return err
	}
	for _, dir := range []string{upper + "/upper", upper + "/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	// Nothing of either kind survives the guest, so nothing waits until it could.
	data := "lowerdir=" + lower + ",upperdir=" + upper + "/upper,workdir=" + upper + "/work,volatile"
	if _, err := mount.Mount("overlay", newRoot, "overlay", data, 0); err != nil {
		return err
	}
	return errors.Join(mount.Unmount(lower, false, true), mount.Unmount(upper, false, true))
}
