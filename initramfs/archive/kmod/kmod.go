// Package kmod chooses and reads, from a kernel's tree of modules as a
// distribution ships it, those that the guest's init loads.
//
// The guest has no modprobe: what the kernel would ask one for by name, and
// what the devices would make udev load, is in a list that init loads in order
// (package modules). Here that list is made: this machine's modprobe (kmod 27 or
// later) says what it would load for each name, hard and soft dependencies
// included, and the files are decompressed. The same tree gives the same list with
// the same version of modprobe.
//
// The tree is the owner's own, for its modules will run in the guest's kernel:
// neither signatures nor the version that a module was built for are checked
// here.
package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cocoroot/initramfs/archive"
	"cocoroot/unlock/modules"
	"cocoroot/unlock/policy"
)

// Errors returned by Choose.
var (
	// ErrVersion is returned when a folder lacks the kernel that is asked
	// for, or not exactly one when none is.
	ErrVersion = errors.New("the kernel is not clear")
	// ErrNoIndex is returned for a tree without modules.dep.bin: depmod makes it.
	ErrNoIndex = errors.New("it has no modules.dep.bin")
	// ErrIndex is returned for a tree of which modprobe can make nothing.
	ErrIndex = errors.New("the tree of modules is not as depmod leaves it")
	// ErrMissing is returned when the kernel lacks what no guest can do without.
	ErrMissing = errors.New("the kernel has neither module nor built-in code")
	// ErrFile is returned for a file that is not a kernel module, or too large.
	ErrFile = errors.New("not a kernel module that init can load")
)

// Choice is what the guest of one kernel loads.
type Choice struct {
	Version string
	Modules []archive.Module // uncompressed, in load order
	Lacks   []Lack
}

// Lack is something that the kernel does not have and some guests do without.
type Lack struct {
	Name   string // of a module or an alias: efi_secret, fs-erofs
	Effect string // what a guest with this kernel cannot do: "it has no …"
}

// Guest is what the modules are for beside what every guest needs.
type Guest struct {
	Channel policy.ChannelKind // how it asks its owner; empty when the secrets are injected
	Writes  bool               // it has disks that it writes
}

// Choose returns the modules that the guest's init loads, from the tree
// dir/lib/modules/version, or the same below dir/usr. An empty version means
// the only one there is. It fails when the kernel lacks what every such guest
// needs; the version, if one was found, is returned then too. Links that lead out
// of dir are not followed.
func Choose(dir, version string, g Guest) (Choice, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Choice{}, fmt.Errorf("cannot open the kernel's modules: %w", err)
	}
	defer root.Close()
	t, err := find(root.FS(), dir, version)
	if err != nil {
		return Choice{}, fmt.Errorf("cannot choose modules from %s: %w", dir, err)
	}
	c, err := t.choose(g)
	if err != nil {
		return Choice{Version: t.version}, fmt.Errorf("cannot choose the modules of kernel %s: %w", t.version, err)
	}
	return c, nil
}

func (t tree) choose(g Guest) (Choice, error) {
	c := Choice{Version: t.version}
	if _, err := fs.Stat(t, "modules.dep.bin"); err != nil {
		return c, fmt.Errorf("%w: %w", ErrNoIndex, err)
	}
	loaded := make(map[string]bool)
	for _, n := range needs(g) {
		list, ok, err := t.resolve(n.name)
		switch {
		case err != nil:
			return c, err
		case !ok && n.required:
			return c, fmt.Errorf("%s: %w", n.name, ErrMissing)
		case !ok && n.lack != "":
			c.Lacks = append(c.Lacks, Lack{n.name, n.lack})
		}
		for _, file := range list {
			if loaded[file] {
				continue
			}
			loaded[file] = true
			data, err := readModule(t, file)
			if err != nil {
				return c, err
			}
			e := modules.Entry{Path: path.Join(modules.Dir, t.version, unpacked(file)), Optional: mayFindNothing(file)}
			c.Modules = append(c.Modules, archive.Module{Entry: e, Data: data})
		}
	}
	return c, nil
}

// find returns the tree of the version that is asked for, or of the only one, below
// dir, which fsys has.
func find(fsys fs.FS, dir, version string) (tree, error) {
	above := make(map[string]string)           // by version
	for _, usr := range []string{"usr", "."} { // since /lib became a link, and before
		entries, err := fs.ReadDir(fsys, path.Join(usr, "lib/modules"))
		if err != nil {
			continue // a layout that is absent has none
		}
		for _, e := range entries {
			if e.IsDir() {
				above[e.Name()] = usr
			}
		}
	}
	names := slices.Sorted(maps.Keys(above))
	if version == "" && len(names) == 1 {
		version = names[0]
	}
	switch list := strings.Join(names, ", "); {
	case len(names) == 0:
		return tree{}, fmt.Errorf("%w: there is no folder lib/modules/VERSION or usr/lib/modules/VERSION", ErrVersion)
	case version == "":
		return tree{}, fmt.Errorf("%w: one of these is to be named: %s", ErrVersion, list)
	case above[version] == "":
		return tree{}, fmt.Errorf("%w: %s is not among %s", ErrVersion, version, list)
	}
	dir, err := filepath.Abs(filepath.Join(dir, above[version]))
	if err != nil {
		return tree{}, err
	}
	modules, err := fs.Sub(fsys, path.Join(above[version], "lib/modules", version))
	return tree{modules, strings.TrimSuffix(dir, "/"), version}, err // modprobe would show a second slash
}
