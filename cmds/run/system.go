package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts are those that the program finds beside what init has left.
var mounts = []struct {
	path, kind, data string
	flags            uintptr
}{
	{"/dev/pts", "devpts", "mode=0620,ptmxmode=0666,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"/dev/shm", "tmpfs", "mode=1777", noExec},
	{"/dev/mqueue", "mqueue", "", noExec},
	{"/sys/fs/cgroup", "cgroup2", "", noExec},
}

// links are names in /dev that programs expect.
var links = map[string]string{
	"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
}

// files is how many files a process may have open: at first, and when it asks.
var files = syscall.Rlimit{Cur: 1024, Max: 524288}

// mountAll mounts what a program finds in a container. What the kernel does not
// have is left out.
func mountAll() error {
	unix.Umask(0o022)
	for _, m := range mounts {
		err := os.MkdirAll(m.path, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.path, m.kind, m.flags, m.data)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("cannot mount %s: %w", m.kind, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("cannot set the limit of open files: %w", err)
	}
	return showRun()
}

// showRun shows the image's own /run again, which init has hidden under a tmpfs,
// with what init left there for the program.
func showRun() error {
	const own = "/run/cocoroot"
	fd, err := unix.OpenTree(unix.AT_FDCWD, own, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cannot take %s along: %w", own, err)
	}
	defer unix.Close(fd)
	if err := unix.Unmount("/run", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot show the image's /run: %w", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, own, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot take %s along: %w", own, err)
	}
	return nil
}

// nameMachine gives the machine its name. A root that cannot be written keeps its own files.
func nameMachine(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("cannot set the machine's name: %w", err)
	}
	hosts := "127.0.0.1 localhost " + name + "\n::1 localhost ip6-localhost ip6-loopback\n"
	return errors.Join(replace("/etc/hostname", name+"\n"), replace("/etc/hosts", hosts))
}

// replace writes a file, where there may be a link. It follows none: by the time of a
// later lease, whoever may write to the folder could have put one there.
func replace(name, text string) error {
	err := os.Remove(name)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = writeNew(name, text)
	}
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

func writeNew(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
