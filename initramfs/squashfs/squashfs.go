// Package squashfs makes a squashfs file system of a folder or a tar with the
// stock tool, mksquashfs.
//
// The same input gives the same bytes with the same version of the tool; the
// file system itself is neither encrypted nor authenticated.
package squashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// What an input can be refused for.
var (
	ErrInput  = errors.New("the root file system is neither a folder nor an uncompressed tar")
	ErrNoTool = errors.New("mksquashfs is not installed (Debian: squashfs-tools, 4.5 or later)")
)

// Program is the stock tool.
const Program = "mksquashfs"

// Make writes the file system of source, a folder or an uncompressed tar, to
// the new file out. Times of files stay; the file system's own is epoch,
// seconds since 1970.
func Make(ctx context.Context, source, out string, epoch int64) error {
	program, err := exec.LookPath(Program)
	if err != nil {
		return ErrNoTool
	}
	in, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("cannot read the root file system: %w", err)
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return fmt.Errorf("cannot read the root file system: %w", err)
	}
	args := []string{source, out}
	if !fi.IsDir() {
		if err := checkTar(in); err != nil {
			return fmt.Errorf("cannot read %s: %w", source, err)
		}
		args = []string{"-", out, "-tar", "-root-mode", "0755"}
	}
	args = append(args, "-noappend", "-reproducible", "-exit-on-error", "-quiet", "-no-progress",
		"-comp", "zstd", "-mkfs-time", strconv.FormatInt(epoch, 10))
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = withoutEpoch(os.Environ())
	if !fi.IsDir() {
		cmd.Stdin = in
	}
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("cannot make the file system: %s: %w: %s", Program, err, lastLine(words.String()))
	}
	return nil
}

// checkTar sees that the file is a tar (POSIX.1-1988 ustar and GNU both have
// "ustar" at byte 257) and leaves it at its start.
func checkTar(f io.ReadSeeker) error {
	var block [512]byte
	if _, err := io.ReadFull(f, block[:]); err != nil || string(block[257:262]) != "ustar" {
		return ErrInput
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// withoutEpoch drops SOURCE_DATE_EPOCH, which mksquashfs refuses beside
// -mkfs-time.
func withoutEpoch(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "SOURCE_DATE_EPOCH=") {
			out = append(out, e)
		}
	}
	return out
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
