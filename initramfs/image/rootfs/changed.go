package rootfs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// stamp is what of a file tells that it changed: its inode, length and times.
// Whoever sets the clock back can write to it unseen.
func stamp(fi fs.FileInfo) [5]int64 {
	st := fi.Sys().(*syscall.Stat_t)
	return [5]int64{int64(st.Ino), st.Size, int64(st.Mode), fi.ModTime().UnixNano(), st.Ctim.Nano()}
}

// print tells two states of a folder apart.
type print struct {
	sum     [sha256.Size]byte // of names and stamps
	size    int64             // bytes of all files, each rounded up to whole blocks
	entries int64
	latest  int64  // time of a file, seconds since 1970
	acl     string // the first file that has a POSIX ACL, or ""
}

// hasACL reports whether a file has more than its mode to say who may do what.
func hasACL(path string) bool {
	for _, name := range []string{accessACL, defaultACL} {
		if n, err := unix.Lgetxattr(path, name, nil); err == nil && n > 0 {
			return true
		}
	}
	return false
}

func fingerprint(ctx context.Context, folder string) (print, error) {
	var p print
	h := sha256.New()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%d %s %v\n", len(path), path, stamp(fi))
		p.entries++
		p.latest = max(p.latest, fi.ModTime().Unix())
		if p.acl == "" && hasACL(path) {
			p.acl = path
		}
		if fi.Mode().IsRegular() {
			p.size += (fi.Size() + ext4Block - 1) / ext4Block * ext4Block
		}
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return p, context.Cause(ctx)
		}
		return p, fmt.Errorf("cannot read the root file system: %w", err)
	}
	h.Sum(p.sum[:0])
	return p, nil
}
