package kmod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// maxIndex bounds one index file in bytes. The largest, a distribution's
// modules.alias, has about two million.
const maxIndex = 32 << 20

// index is what depmod wrote about a tree. Names of modules and aliases have
// _ wherever - or _ stood, for depmod and the kernel use both for the same.
type index struct {
	modules map[string]*module
	aliases map[string][]string // alias without wildcards to modules, as modules.alias has them
	builtin map[string]bool     // modules and aliases that are part of the kernel
}

// module is one line of modules.dep, and what is to be loaded around it, where
// that exists.
type module struct {
	file      string   // below the tree
	needs     []string // names of all modules it needs, direct or not
	pre, post []string
}

func readIndex(fsys fs.FS) (*index, error) {
	x := &index{modules: make(map[string]*module), aliases: make(map[string][]string), builtin: make(map[string]bool)}
	for _, f := range []struct {
		name string
		take func(words []string) bool
	}{
		{"modules.dep", x.takeDep},
		{"modules.alias", x.takeAlias},
		{"modules.softdep", x.takeSoftdep},
		{"modules.builtin", x.takeBuiltin},
	} {
		text, err := readBounded(fsys, f.name, maxIndex)
		if errors.Is(err, fs.ErrNotExist) {
			if f.name == "modules.dep" {
				return nil, ErrNoIndex
			}
			continue // a tree may have no aliases, nothing built in, …
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) > 0 && !strings.HasPrefix(line, "#") && !f.take(words) {
				return nil, fmt.Errorf("%s: %w: %.128q", f.name, ErrIndex, line)
			}
		}
	}
	for name, m := range x.modules {
		for _, dep := range m.needs {
			if x.modules[dep] == nil {
				return nil, fmt.Errorf("modules.dep: %w: %s needs %s, which is not there", ErrIndex, name, dep)
			}
		}
	}
	return x, x.readModinfo(fsys)
}

func readBounded(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, name, limit)
}

func readAtMost(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("cannot read %s: it has more than %d bytes", name, limit)
	}
	return data, nil
}

// takeDep reads "FILE: FILE FILE", relative to the tree.
func (x *index) takeDep(words []string) bool {
	file, ok := strings.CutSuffix(words[0], ":")
	name := nameOf(file)
	if !ok || !isModule(file) || x.modules[name] != nil {
		return false
	}
	m := &module{file: file}
	for _, dep := range words[1:] {
		if !isModule(dep) {
			return false
		}
		m.needs = append(m.needs, nameOf(dep))
	}
	x.modules[name] = m
	return true
}

// takeAlias reads "alias PATTERN MODULE". Patterns are for devices, which
// report themselves with long names; what the kernel asks for has none.
func (x *index) takeAlias(words []string) bool {
	if len(words) != 3 || words[0] != "alias" {
		return false
	}
	if alias := normal(words[1]); !strings.ContainsAny(alias, "*?[") {
		x.aliases[alias] = append(x.aliases[alias], normal(words[2]))
	}
	return true
}

// takeSoftdep reads "softdep MODULE pre: NAME… post: NAME…". Names before
// either word mean nothing to modprobe, and some modules have such.
func (x *index) takeSoftdep(words []string) bool {
	if len(words) < 2 || words[0] != "softdep" {
		return false
	}
	m := x.modules[normal(words[1])]
	if m == nil {
		return true
	}
	into := new([]string)
	for _, word := range words[2:] {
		switch word {
		case "pre:":
			into = &m.pre
		case "post:":
			into = &m.post
		default:
			*into = append(*into, normal(word))
		}
	}
	return true
}

// takeBuiltin reads one file name a line, as if it were a module.
func (x *index) takeBuiltin(words []string) bool {
	x.builtin[nameOf(words[0])] = true
	return len(words) == 1 && isModule(words[0])
}

// readModinfo reads "MODULE.KEY=VALUE", each ended by a NUL: what the modules
// in the kernel say of themselves. A value may have line breaks.
func (x *index) readModinfo(fsys fs.FS) error {
	const name = "modules.builtin.modinfo"
	text, err := readBounded(fsys, name, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for rest := string(text); rest != "" && err == nil; {
		item, after, ended := strings.Cut(rest, "\x00")
		key, value, ok := strings.Cut(item, "=")
		if !ended || !ok {
			err = fmt.Errorf("%s: %w: %.128q", name, ErrIndex, item)
		}
		if strings.HasSuffix(key, ".alias") {
			x.builtin[normal(value)] = true
		}
		rest = after
	}
	return err
}

func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// isModule reports whether file can be a module's name below a tree.
func isModule(file string) bool {
	return strings.Contains(path.Base(file), ".ko") && fs.ValidPath(file) && nameOf(file) != ""
}

// nameOf returns the name of the module in a file.
func nameOf(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return normal(base)
}
