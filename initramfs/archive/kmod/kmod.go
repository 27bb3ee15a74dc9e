// Package kmod chooses and reads, from a kernel's tree of modules as a
// distribution ships it, those that the guest's init loads.
//
// The guest has no modprobe: what the kernel would ask one for by name, and
// what the devices would make udev load, is in a list that init loads in order
// (package modules). Here that list is made: names are looked up in what
// depmod wrote (modules.dep, .alias, .softdep, .builtin, .builtin.modinfo; see
// modules.dep(5) and modprobe.d(5) of kmod), closed over hard and soft
// dependencies, and the files decompressed. The same tree gives the same list.
//
// The tree is the owner's own, for its modules will run in the guest's kernel:
// neither signatures nor the version that a module was built for are checked
// here. Parsers are bounded nevertheless, so that a broken tree is an error
// and nothing worse.
package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
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
	// ErrNoIndex is returned for a tree without modules.dep: depmod makes it.
	ErrNoIndex = errors.New("it has no modules.dep")
	// ErrIndex is returned for an index file that depmod does not write.
	ErrIndex = errors.New("not as depmod writes it")
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
	version, tree, err := find(root.FS(), version)
	if err != nil {
		return Choice{}, fmt.Errorf("cannot choose modules from %s: %w", dir, err)
	}
	c, err := choose(tree, version, g)
	if err != nil {
		return Choice{Version: version}, fmt.Errorf("cannot choose the modules of kernel %s: %w", version, err)
	}
	return c, nil
}

func choose(tree fs.FS, version string, g Guest) (Choice, error) {
	x, err := readIndex(tree)
	if err != nil {
		return Choice{}, err
	}
	names, lacks, err := x.guest(g)
	if err != nil {
		return Choice{}, err
	}
	c := Choice{Version: version, Lacks: lacks}
	for _, name := range names {
		file := x.modules[name].file
		data, err := readModule(tree, file)
		if err != nil {
			return Choice{}, err
		}
		e := modules.Entry{Path: path.Join(modules.Dir, version, unpacked(file)), Optional: mayFindNothing(file)}
		c.Modules = append(c.Modules, archive.Module{Entry: e, Data: data})
	}
	return c, nil
}

// find returns the tree of the version that is asked for, and which that is.
func find(fsys fs.FS, version string) (string, fs.FS, error) {
	trees := make(map[string]string)                                    // by version
	for _, layout := range []string{"usr/lib/modules", "lib/modules"} { // since /lib became a link, and before
		entries, err := fs.ReadDir(fsys, layout)
		if err != nil {
			continue // a layout that is absent has none
		}
		for _, e := range entries {
			if e.IsDir() {
				trees[e.Name()] = path.Join(layout, e.Name())
			}
		}
	}
	names := slices.Sorted(maps.Keys(trees))
	if version == "" && len(names) == 1 {
		version = names[0]
	}
	switch list := strings.Join(names, ", "); {
	case len(names) == 0:
		return "", nil, fmt.Errorf("%w: there is no folder lib/modules/VERSION or usr/lib/modules/VERSION", ErrVersion)
	case version == "":
		return "", nil, fmt.Errorf("%w: one of these is to be named: %s", ErrVersion, list)
	case trees[version] == "":
		return "", nil, fmt.Errorf("%w: %s is not among %s", ErrVersion, version, list)
	}
	tree, err := fs.Sub(fsys, trees[version])
	return version, tree, err
}
