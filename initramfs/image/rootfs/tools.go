package rootfs

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cocoroot/initramfs/image/fsimage"
)

// The stock tools, each with the Debian package that has it.
const (
	mksquashfs = "mksquashfs" // squashfs-tools 4.5 or later
	tar2sqfs   = "tar2sqfs"   // squashfs-tools-ng 1.2 or later
	sqfs2tar   = "sqfs2tar"
	mkfsErofs  = "mkfs.erofs" // erofs-utils 1.5 or later
	mke2fs     = "mke2fs"     // e2fsprogs 1.47 or later
	resize2fs  = "resize2fs"
	debugfs    = "debugfs"
	qemuImg    = "qemu-img" // qemu-utils 7.2 or later
	dd         = "dd"
)

var packages = map[string]string{
	mksquashfs: "squashfs-tools", tar2sqfs: "squashfs-tools-ng", sqfs2tar: "squashfs-tools-ng",
	mkfsErofs: "erofs-utils", mke2fs: "e2fsprogs", resize2fs: "e2fsprogs", debugfs: "e2fsprogs", qemuImg: "qemu-utils", dd: "coreutils",
}

// fixedUUID is the UUID of every erofs and ext4: the image's own UUIDs are those of
// its LUKS2 header and of its hash tree.
const fixedUUID = "8cbd94cc-6a7d-4a7c-9e1d-5bb8f0ba2a1c"

// ext4Block is the size in bytes of an ext4's blocks.
const ext4Block = 4096

// endWithin is how long a program may take to end when it is told to.
const endWithin = 500 * time.Millisecond

// DefaultLevel is zstd's level for a squashfs, and squashfsBlock the size of
// its blocks: of a Debian root (173 MB), 47.5 MB in 2.4 s of one processor. Level 15
// takes 15.7 s for 46.6 MB, and blocks of 256 KiB come to 49.5 MB. A reader pays for
// larger blocks: one page of 4 KiB, read at random, takes 0.61 ms, and 0.39 ms with
// 256 KiB (Linux 6.18, without hash check and decryption).
const (
	DefaultLevel  = 6
	MaxLevel      = 22
	squashfsBlock = "512K"
)

func (o Options) level() string { return strconv.Itoa(cmp.Or(o.Level, DefaultLevel)) }

func squashfsOfFolder(ctx context.Context, folder, out string, o Options) error {
	args := []string{folder, out, "-noappend", "-reproducible", "-exit-on-error", "-quiet", "-no-progress", "-comp", "zstd",
		"-Xcompression-level", o.level(), "-b", squashfsBlock, "-mkfs-time", strconv.FormatInt(o.Epoch, 10)}
	if o.Owned {
		args = append(args, "-all-root")
	}
	return run(ctx, nil, nil, mksquashfs, args...)
}

// squashfsOfTar reads an uncompressed tar. (mksquashfs takes the root folder from
// no tar: there it belongs to the user that it runs as, and has the current time.)
// Of a full disk the tool says no more than "I/O error".
func squashfsOfTar(ctx context.Context, tar io.Reader, out string, o Options) error {
	err := run(ctx, nil, tar, tar2sqfs, "--quiet", "--no-skip", "--compressor", "zstd", "--comp-extra", "level="+o.level(),
		"--block-size", squashfsBlock, "--defaults", "mtime="+strconv.FormatInt(o.Epoch, 10), out)
	if err != nil && strings.Contains(err.Error(), "I/O error") {
		err = fmt.Errorf("%w (there is no space left, or the disk fails)", err)
	}
	return err
}

// erofsOfFolder keeps the files' times: the tool (1.5) takes none for later than
// SOURCE_DATE_EPOCH, so that is the latest in the folder, or the caller's. It
// compresses nothing (see fsimage for why), but holes take no room, and chunks of
// 64 KiB that are the same take it once.
func erofsOfFolder(ctx context.Context, folder, out string, latest int64, o Options) error {
	args := []string{"--chunksize=65536", "--quiet", "-U", fixedUUID}
	if o.Owned {
		args = append(args, "--all-root")
	}
	epoch := "SOURCE_DATE_EPOCH=" + strconv.FormatInt(max(latest, o.Epoch), 10)
	return run(ctx, []string{epoch}, nil, mkfsErofs, append(args, out, folder)...)
}

// ext4OfFolder makes an ext4 with all that it needs and no block more: size
// bytes of files and a number of entries. It has no journal, for nobody writes
// to it.
func ext4OfFolder(ctx context.Context, folder, out string, size, entries int64, o Options) error {
	// Twice the number of inodes, a block an entry for folders, extents and
	// extended attributes; and something for groups and bitmaps.
	blocks := size/ext4Block + 2*entries + size/ext4Block/32 + 4096
	extended := "hash_seed=" + fixedUUID + ",lazy_itable_init=0,nodiscard"
	now := []string{"E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(max(o.Epoch, 1), 10)}
	err := run(ctx, now, nil, mke2fs, "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(ext4Block), "-m", "0", "-O", "^has_journal,^resize_inode",
		"-N", strconv.FormatInt(entries+64, 10), "-U", fixedUUID, "-E", extended, "-d", folder, out, strconv.FormatInt(blocks, 10))
	if err != nil {
		return err
	}
	if err := run(ctx, now, ext4Times(entries, o.Epoch), debugfs, "-w", "-f", "-", out); err != nil {
		return err
	}
	if err := run(ctx, now, nil, resize2fs, "-f", "-M", out); err != nil {
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

// ext4Times returns commands for debugfs that set the times of access and change:
// mke2fs takes those of the source, which differ from copy to copy. mke2fs numbers
// inodes without a gap: the root is 2, lost+found 11, and the files follow.
func ext4Times(entries, epoch int64) io.Reader {
	var text strings.Builder
	for inode := int64(2); inode < 12+entries; inode++ {
		if inode == 3 {
			inode = 11
		}
		for _, field := range []string{"atime", "ctime"} {
			fmt.Fprintf(&text, "set_inode_field <%d> %s @%d\n", inode, field, epoch)
		}
	}
	return strings.NewReader(text.String())
}

// run runs a tool that makes something.
func run(ctx context.Context, env []string, in io.Reader, program string, args ...string) error {
	words := &tail{}
	_, err := execute(ctx, env, nil, in, words, words, program, args...)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot make the file system: %w", err)
	}
	return err
}

// thisFile is the file that tool hands to a program.
const thisFile = "/proc/self/fd/3"

// tool runs a tool that reads f, and returns what it says beside its output, the
// end of it.
func tool(ctx context.Context, f *os.File, in io.Reader, out io.Writer, program string, args ...string) (string, error) {
	return execute(ctx, nil, f, in, out, &tail{}, program, args...)
}

// execute runs a stock tool, with variables beside its environment.
func execute(ctx context.Context, env []string, f *os.File, in io.Reader, out io.Writer, words *tail, program string, args ...string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program) // not on a user's PATH
	}
	if err != nil {
		return "", fmt.Errorf("a program is not installed: %s (Debian: %s)", program, packages[program])
	}
	cmd := exec.CommandContext(ctx, path, args...)
	withoutEpoch := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "SOURCE_DATE_EPOCH=") })
	cmd.Env = append(append(withoutEpoch, "LC_ALL=C"), env...)
	cmd.WaitDelay = endWithin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C at the terminal ends ctx, and that the tool
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, words
	if f != nil {
		cmd.ExtraFiles = []*os.File{f}
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return string(words.kept), fmt.Errorf("%s: %w: %s", program, err, words.last())
	}
	return string(words.kept), nil
}

// tail keeps the last words of a program.
type tail struct{ kept []byte }

const tailSize = 64 << 10

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
