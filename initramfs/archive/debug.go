package archive

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

var errCommands = errors.New("not an archive of u-root's commands with its shell")

// u-root's builder puts all commands into one program, and beside it one link
// per command (mkuimage, in its busybox mode).
const (
	commandDir     = "bbin"
	commandProgram = commandDir + "/bb"
	commandShell   = commandDir + "/gosh"
)

// commands returns what a debug archive takes from u-root's: the program and
// its links. The rest of it, its init among that, is left out, and so are its
// modes and times, which depend on who built it.
func commands(archived []byte) ([]cpio.Record, error) {
	var out []cpio.Record
	err := cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(archived)), func(r cpio.Record) error {
		if !strings.HasPrefix(r.Name, commandDir+"/") {
			return nil
		}
		data, err := content(r, maxInit)
		if err != nil {
			return err
		}
		switch kind := r.Mode & unix.S_IFMT; {
		case r.Name == commandProgram && kind == unix.S_IFREG:
			if err := checkStatic(data); err != nil {
				return err
			}
			out = append(out, cpio.StaticFile(r.Name, string(data), 0o755))
		case kind == unix.S_IFLNK && string(data) == "bb":
			out = append(out, cpio.Symlink(r.Name, "bb"))
		default:
			return fmt.Errorf("%.128q is neither the program nor a link to it", r.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCommands, err)
	}
	for _, name := range []string{commandProgram, commandShell} {
		if !slices.ContainsFunc(out, func(r cpio.Record) bool { return r.Name == name }) {
			return nil, fmt.Errorf("%w: it has no %s", errCommands, name)
		}
	}
	return out, nil
}
