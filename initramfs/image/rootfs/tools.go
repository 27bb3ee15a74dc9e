package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cocoroot/initramfs/image/fsimage"
)

// The stock tools, each with the Debian package that has it.
const (
	mksquashfs = "mksquashfs" // squashfs-tools 4.5 or later
	mkfsErofs  = "mkfs.erofs" // erofs-utils 1.5 or later
	mke2fs     = "mke2fs"     // e2fsprogs 1.47 or later
	resize2fs  = "resize2fs"
)

var packages = map[string]string{
	mksquashfs: "squashfs-tools", mkfsErofs: "erofs-utils", mke2fs: "e2fsprogs", resize2fs: "e2fsprogs",
}

// fixedUUID is that of each erofs and ext4: the image's own UUIDs are those of
// its LUKS2 header and of its hash tree.
const fixedUUID = "8cbd94cc-6a7d-4a7c-9e1d-5bb8f0ba2a1c"

// ext4Block is the size in bytes of an ext4's blocks.
const ext4Block = 4096

// endWithin is how long a program may take to end when it is told to.
const endWithin = 500 * time.Millisecond

var squashfsArgs = []string{"-noappend", "-reproducible", "-exit-on-error", "-quiet", "-no-progress", "-comp", "zstd"}

func squashfsOfFolder(ctx context.Context, folder, out string, o Options) error {
	args := append([]string{folder, out, "-mkfs-time", strconv.FormatInt(o.Epoch, 10)}, squashfsArgs...)
	if o.Owned {
		args = append(args, "-all-root")
	}
	return runAt(ctx, o.Epoch, nil, mksquashfs, args...)
}

// squashfsOfTar reads an uncompressed tar. The tool (4.5.1) takes the root
// folder from no tar: it belongs to root, and would have the time of now. The
// tool takes no time for later than SOURCE_DATE_EPOCH, so that is to be the
// latest time in the tar.
func squashfsOfTar(ctx context.Context, tar io.Reader, out string, rootMode, latest int64) error {
	args := append([]string{"-", out, "-tar", "-root-mode", strconv.FormatInt(rootMode, 8)}, squashfsArgs...)
	return runAt(ctx, latest, tar, mksquashfs, args...)
}

func erofsOfFolder(ctx context.Context, folder, out string, o Options) error {
	args := []string{"-zlz4hc", "--quiet", "-T", strconv.FormatInt(o.Epoch, 10), "-U", fixedUUID}
	if o.Owned {
		args = append(args, "--all-root")
	}
	return runAt(ctx, o.Epoch, nil, mkfsErofs, append(args, out, folder)...)
}

// ext4OfFolder makes an ext4 with all that it needs and no block more: size
// bytes of files and a number of entries. It has no journal, for nobody writes
// to it.
func ext4OfFolder(ctx context.Context, folder, out string, size, entries int64, o Options) error {
	// Twice the number of inodes, a block an entry for folders, extents and
	// extended attributes; and something for groups and bitmaps.
	blocks := size/ext4Block + 2*entries + size/ext4Block/32 + 4096
	extended := "hash_seed=" + fixedUUID + ",lazy_itable_init=0,nodiscard"
	err := runAt(ctx, o.Epoch, nil, mke2fs, "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(ext4Block), "-m", "0", "-O", "^has_journal,^resize_inode",
		"-N", strconv.FormatInt(entries+64, 10), "-U", fixedUUID, "-E", extended, "-d", folder, out, strconv.FormatInt(blocks, 10))
	if err != nil {
		return err
	}
	if err := runAt(ctx, o.Epoch, nil, resize2fs, "-f", "-M", out); err != nil {
		return err
	}
	f, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot read the file system: %w", err)
	}
	defer f.Close()
	_, length, err := fsimage.Detect(f)
	if err != nil {
		return fmt.Errorf("cannot use what %s made: %w", mke2fs, err)
	}
	if err := f.Truncate(length); err != nil {
		return fmt.Errorf("cannot write the file system: %w", err)
	}
	return nil
}

// runAt runs a stock tool, for which it is epoch.
func runAt(ctx context.Context, epoch int64, in io.Reader, program string, args ...string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program) // not on a user's PATH
	}
	if err != nil {
		return fmt.Errorf("%w: %s (Debian: %s)", ErrNoTool, program, packages[program])
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(withoutEpoch(os.Environ()), "E2FSPROGS_FAKE_TIME="+strconv.FormatInt(max(epoch, 1), 10), "LC_ALL=C")
	if in != nil { // it refuses both, this and -mkfs-time
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(epoch, 10))
	}
	if in != nil && os.Geteuid() != 0 {
		cmd.SysProcAttr = seenAsRoot()
	}
	cmd.Stdin = in
	cmd.WaitDelay = endWithin
	var words tail
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if cmd.SysProcAttr != nil && errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("cannot start %s in a user namespace, which this machine forbids to users (start it as root): %w", program, err)
		}
		return fmt.Errorf("cannot make the file system: %s: %w: %s", program, err, words.last())
	}
	return nil
}

// seenAsRoot lets a program see its user as root, in a user namespace: the
// folder that mksquashfs reads no owner of belongs to whom it runs as.
func seenAsRoot() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

// withoutEpoch drops the caller's SOURCE_DATE_EPOCH.
func withoutEpoch(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "SOURCE_DATE_EPOCH=") {
			out = append(out, e)
		}
	}
	return out
}

// tail keeps the last words of a program.
type tail struct{ kept []byte }

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailSize; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// last returns the last two lines: mksquashfs names the cause before it says
// that it ends.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return strings.Join(lines[max(len(lines)-2, 0):], "; ")
}
