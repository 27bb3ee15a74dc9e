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
	// ListPath is where the list stands in the archive: one absolute path
	// of an uncompressed module a line, in load order.
	ListPath = "/etc/cocoroot/modules"
	// Dir is where the archive keeps the modules.
	Dir = "/lib/modules"
	// maxModules bounds the list.
	maxModules = 256
)

// ErrList is returned for a list that init would not load.
var ErrList = errors.New("module list is malformed")

// ParseList reads a list. Every line is a clean path of a .ko file under Dir,
// and none stands twice.
func ParseList(text string) ([]string, error) {
	var list []string
	seen := make(map[string]bool)
	for line := range strings.Lines(text) {
		p, ended := strings.CutSuffix(line, "\n")
		switch {
		case !ended:
			return nil, fmt.Errorf("%w: the last line has no end", ErrList)
		case path.Clean(p) != p || !strings.HasPrefix(p, Dir+"/") || !strings.HasSuffix(p, ".ko"):
			return nil, fmt.Errorf("%w: %.128q is not the path of a .ko file under %s", ErrList, p, Dir)
		case seen[p]:
			return nil, fmt.Errorf("%w: %s stands twice", ErrList, p)
		case len(list) == maxModules:
			return nil, fmt.Errorf("%w: more than %d modules", ErrList, maxModules)
		}
		seen[p] = true
		list = append(list, p)
	}
	return list, nil
}

// FormatList writes the list that ParseList reads.
func FormatList(list []string) (string, error) {
	var b strings.Builder
	for _, p := range list {
		b.WriteString(p + "\n")
	}
	if _, err := ParseList(b.String()); err != nil {
		return "", err
	}
	return b.String(), nil
}

// Load loads the modules that the archive lists, in order, with finit_module.
// One that is loaded already is no error; an archive without a list has none.
// It returns the number of modules in the list.
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
	for _, p := range list {
		if err := load(p); err != nil {
			return 0, fmt.Errorf("cannot load the kernel module %s: %w", path.Base(p), err)
		}
	}
	return len(list), nil
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
