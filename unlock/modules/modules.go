// Package modules has the list of kernel modules that an archive carries and
// loads them in its order.
//
// The archive's builder resolves dependencies, so that the guest only loads
// files in order. Archive and list are measured; the modules come from the
// owner, and this package does not check signatures.
package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// ListPath is the path of the list in the archive: one absolute path
	// of an uncompressed module a line, in load order, with a - before
	// it when a CPU may lack what the module is for.
	ListPath = "/etc/cocoroot/modules"
	// Dir is where the archive keeps the modules.
	Dir = "/lib/modules"
	// Optional comes before the path of an optional module.
	Optional = "-"
	// maxModules bounds the list.
	maxModules = 256
)

// errList is returned for a list that init would not load.
var errList = errors.New("module list is malformed")

// Entry is one line of the list.
type Entry struct {
	Path string // in the archive
	// Optional says that the boot goes on when this module finds no device
	// or CPU feature that it is for (ENODEV): another does the work then.
	// Any other failure to load it ends the boot anyway.
	Optional bool
}

// ParseList reads a list. Every path is a clean one of a .ko file under Dir,
// and none appears twice.
func ParseList(text string) ([]Entry, error) {
	var list []Entry
	seen := make(map[string]bool)
	for line := range strings.Lines(text) {
		p, ended := strings.CutSuffix(line, "\n")
		p, skip := strings.CutPrefix(p, Optional)
		switch {
		case !ended:
			return nil, fmt.Errorf("%w: the last line has no end", errList)
		case path.Clean(p) != p || !strings.HasPrefix(p, Dir+"/") || !strings.HasSuffix(p, ".ko"):
			return nil, fmt.Errorf("%w: %.128q is not the path of a .ko file under %s", errList, p, Dir)
		case seen[p]:
			return nil, fmt.Errorf("%w: %s appears twice", errList, p)
		case len(list) == maxModules:
			return nil, fmt.Errorf("%w: more than %d modules", errList, maxModules)
		}
		seen[p] = true
		list = append(list, Entry{p, skip})
	}
	return list, nil
}

// Load loads the modules that the archive lists, in order, with finit_module.
// One that is loaded already is no error; an archive without a list has none.
// It returns how many are loaded. A module that waits for a device may hold it
// up for as long as the host likes: the caller sets the limit.
func Load() (int, error) {
	text, err := os.ReadFile(ListPath)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the module list: %w", err)
	}
	list, err := ParseList(string(text))
	if err != nil {
		return 0, err
	}
	loaded := 0
	for _, e := range list {
		err := load(e.Path)
		if e.Optional && errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return loaded, fmt.Errorf("cannot load the kernel module %s: %w", path.Base(e.Path), err)
		}
		loaded++
	}
	return loaded, nil
}

func load(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
