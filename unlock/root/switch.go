package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"
)

// Errors returned by CheckInit and Switch.
var (
	// ErrNoInit means that the image has no program at the given path.
	ErrNoInit = errors.New("the image has no such program")
	// errUnsafe means that switching, which deletes the old root, was asked
	// for where it would delete something else.
	errUnsafe = errors.New("this is not the first process in an initramfs")
)

// CheckInit checks that the mounted image has an executable regular file at path, and
// that no state is mounted on the way to it: that file would not be the measured one.
func CheckInit(path string) error { return checkInit(newRoot, path) }

func checkInit(root, path string) error {
	fd, err := openInside(root, path, 0, unix.RESOLVE_NO_XDEV)
	var st unix.Stat_t
	if err == nil {
		defer unix.Close(fd)
		err = unix.Fstat(fd, &st)
	}
	switch {
	case err == unix.ENOENT || err == unix.ENOTDIR:
		err = ErrNoInit
	case err == unix.EXDEV:
		err = errors.New("a state is mounted there, or on the way")
	case err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0):
		err = fmt.Errorf("%w: it is not an executable file", ErrNoInit)
	}
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", path, err)
	}
	return nil
}

// Folder finds a folder of the mounted image: inside is where it lies there, and
// outside where it lies until Switch; there are no links in either.
func Folder(path string) (inside, outside string, err error) {
	fd, err := openInside(newRoot, path, unix.O_DIRECTORY, 0)
	if err == nil {
		defer unix.Close(fd)
		outside, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	inside, ok := strings.CutPrefix(outside, newRoot)
	if err == nil && !ok {
		err = fmt.Errorf("it is %s", outside)
	}
	if err != nil {
		return "", "", fmt.Errorf("cannot find the folder %s in the image: %w", path, err)
	}
	return inside, outside, nil
}

// openInside opens what the image, mounted at root, has at path, to look at it only.
// Symbolic links, absolute ones too, are followed inside the image.
func openInside(root, path string, flags, resolve uint64) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot look into the image: %w", err)
	}
	defer unix.Close(dir)
	return unix.Openat2(dir, path, &unix.OpenHow{Flags: flags | unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | resolve})
}

// Switch makes the mounted image the root: it moves the kernel's file
// systems, frees the initramfs, and executes path with argv and env. It only
// returns on failure. Call CheckInit first: nothing can be undone
// afterwards. Unless console is set, the program reads nothing from the
// console, which is the host's: its standard input is /dev/null.
func Switch(path string, argv, env []string, console bool) error {
	old, err := guard()
	if err == nil && !console {
		err = closeStdin()
	}
	for _, m := range apiMounts {
		if err == nil && m.moves {
			err = moveInto(m.path)
		}
	}
	for _, step := range []func() error{
		func() error { return unix.Chdir(newRoot) },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot switch root: %w", err)
	}
	if err := removeTree(old); err != nil {
		return fmt.Errorf("cannot free the initramfs: %w", err)
	}
	return fmt.Errorf("cannot start %s: %w", path, unix.Exec(path, argv, env))
}

// closeStdin makes standard input /dev/null.
func closeStdin() error {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open /dev/null: %w", err)
	}
	if fd == 0 { // it was closed: exec must leave it open
		_, err = unix.FcntlInt(0, unix.F_SETFD, 0)
		return err
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, 0, 0)
}

// Magic numbers of statfs(2) (include/uapi/linux/magic.h).
const (
	ramfsMagic = 0x858458f6
	tmpfsMagic = 0x01021994
)

// guard checks that deleting the old root deletes an initramfs and nothing
// else, and returns it opened.
func guard() (*os.File, error) {
	if os.Getpid() != 1 {
		return nil, fmt.Errorf("%w: process %d", errUnsafe, os.Getpid())
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return nil, err
	}
	if fs.Type != ramfsMagic && fs.Type != tmpfsMagic {
		return nil, fmt.Errorf("%w: the root has file system type %#x", errUnsafe, fs.Type)
	}
	var here, there unix.Stat_t
	if err := errors.Join(unix.Stat("/", &here), unix.Stat(newRoot, &there)); err != nil {
		return nil, err
	}
	if here.Dev == there.Dev {
		return nil, fmt.Errorf("%w: nothing is mounted on %s", errUnsafe, newRoot)
	}
	return os.Open("/")
}

// moveInto moves the mount at path to the same path in the new root.
func moveInto(path string) error {
	target := filepath.Join(newRoot, path)
	fi, err := os.Lstat(target)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.Mkdir(target, 0o755); err != nil {
			return fmt.Errorf("the image has no %s and none can be made: %w", path, err)
		}
		fi, err = os.Lstat(target)
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() { // a link could lead out of the new root
		return fmt.Errorf("%s in the image is not a directory", path)
	}
	_, err = mount.Mount(path, target, "", "", unix.MS_MOVE)
	return err
}

// removeTree deletes everything below dir that lies on its own file system,
// and closes dir. It goes through directory descriptors, so no link and no
// mount can lead it elsewhere.
func removeTree(dir *os.File) error {
	defer dir.Close()
	var own unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &own); err != nil {
		return err
	}
	names, err := dir.Readdirnames(0)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := removeEntry(int(dir.Fd()), own.Dev, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func removeEntry(dir int, dev uint64, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Dev != dev {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Unlinkat(dir, name, 0)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := removeTree(os.NewFile(uintptr(fd), name)); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.EBUSY {
		return err // busy: something is mounted on it
	}
	return nil
}
