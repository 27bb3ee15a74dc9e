package archive

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
)

// EFISecret is the module that init needs where the kernel has it not built in.
const EFISecret = "efi_secret"

// maxModule bounds one module in bytes.
const maxModule = 16 << 20

// What a tree of kernel modules can be refused for.
var (
	ErrNoModule   = errors.New("the kernel has no such module")
	ErrCompressed = errors.New("compressed modules are not read")
)

// FindModules returns the named modules of the tree dir/lib/modules/version,
// each after what it depends on. A module that is built into the kernel needs
// nothing. The tree is the owner's own.
func FindModules(dir, version string, names ...string) ([]Module, error) {
	tree := path.Join("/lib/modules", version)
	deps, err := readDeps(filepath.Join(dir, tree))
	if err != nil {
		return nil, err
	}
	var out []Module
	done := make(map[string]bool)
	for _, name := range names {
		file, ok := deps.find(name)
		if !ok && deps.builtIn(name) {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("cannot find %s for kernel %s: %w", name, version, ErrNoModule)
		}
		for _, f := range deps.order(file) {
			if done[f] {
				continue
			}
			done[f] = true
			m, err := readModule(dir, path.Join(tree, f))
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}

func readModule(dir, file string) (Module, error) {
	if !strings.HasSuffix(file, ".ko") {
		return Module{}, fmt.Errorf("cannot use %s: %w", file, ErrCompressed)
	}
	full := filepath.Join(dir, file)
	fi, err := os.Stat(full)
	if err != nil {
		return Module{}, fmt.Errorf("cannot read a kernel module: %w", err)
	}
	if fi.Size() > maxModule {
		return Module{}, fmt.Errorf("cannot use %s: it has more than %d bytes", full, maxModule)
	}
	data, err := os.ReadFile(full)
	if err != nil {
		return Module{}, fmt.Errorf("cannot read a kernel module: %w", err)
	}
	return Module{Path: file, Data: data}, nil
}

// moduleDeps is what depmod wrote about a tree.
type moduleDeps struct {
	needs   map[string][]string // file to the files it needs, as modules.dep has them
	builtin []string
}

func readDeps(tree string) (moduleDeps, error) {
	text, err := os.ReadFile(filepath.Join(tree, "modules.dep"))
	if errors.Is(err, fs.ErrNotExist) {
		return moduleDeps{}, fmt.Errorf("cannot find the kernel's modules: %w (depmod -b makes this file)", err)
	}
	if err != nil {
		return moduleDeps{}, fmt.Errorf("cannot find the kernel's modules: %w", err)
	}
	d := moduleDeps{needs: make(map[string][]string)}
	for line := range strings.Lines(string(text)) {
		file, needs, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok || file == "" || path.IsAbs(file) || path.Clean(file) != file || strings.HasPrefix(file, "..") {
			return moduleDeps{}, fmt.Errorf("cannot read %s: %.128q is not a line of modules.dep", filepath.Join(tree, "modules.dep"), line)
		}
		d.needs[file] = strings.Fields(needs)
	}
	builtin, err := os.ReadFile(filepath.Join(tree, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return moduleDeps{}, fmt.Errorf("cannot find the kernel's modules: %w", err)
	}
	d.builtin = strings.Fields(string(builtin))
	return d, nil
}

// find returns the file of a module. In names, - and _ are the same.
func (d moduleDeps) find(name string) (string, bool) {
	for _, file := range slices.Sorted(maps.Keys(d.needs)) {
		if moduleName(file) == name {
			return file, true
		}
	}
	return "", false
}

func (d moduleDeps) builtIn(name string) bool {
	for _, file := range d.builtin {
		if moduleName(file) == name {
			return true
		}
	}
	return false
}

func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// order returns what file needs, in load order, and file itself at the end.
// modules.dep lists all dependencies of a module, the deepest last.
func (d moduleDeps) order(file string) []string {
	needs := d.needs[file]
	out := make([]string, 0, len(needs)+1)
	for i := len(needs) - 1; i >= 0; i-- {
		out = append(out, needs[i])
	}
	return append(out, file)
}
