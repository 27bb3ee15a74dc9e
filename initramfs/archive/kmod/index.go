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
	modules map[string]module
	aliases map[string][]string // alias without wildcards to modules, as modules.alias has them
	soft    map[string]soft     // by module
	builtin map[string]bool     // modules and aliases that are part of the kernel
}

// module is one line of modules.dep.
type module struct {
	file  string   // below the tree
	needs []string // names of all modules it needs, direct or not
}

// soft is what is to be loaded around a module, where it exists.
type soft struct{ pre, post []string }

func readIndex(fsys fs.FS) (*index, error) {
	x := &index{
		modules: make(map[string]module), aliases: make(map[string][]string),
		soft: make(map[string]soft), builtin: make(map[string]bool),
	}
	for _, f := range []struct {
		name  string
		parse func(string) error
	}{
		{"modules.dep", x.parseDep},
		{"modules.alias", x.parseAlias},
		{"modules.softdep", x.parseSoftdep},
		{"modules.builtin", x.parseBuiltin},
		{"modules.builtin.modinfo", x.parseModinfo},
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
		if err := f.parse(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if err := x.check(); err != nil {
		return nil, err
	}
	return x, nil
}

// readBounded reads a file of at most limit bytes.
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

// badLine is the error for a line that depmod does not write.
func badLine(line string) error { return fmt.Errorf("%w: %.128q", ErrIndex, line) }

// parseDep reads "FILE: FILE FILE", relative to the tree.
func (x *index) parseDep(text string) error {
	for line := range strings.Lines(text) {
		file, deps, ok := strings.Cut(line, ":")
		name := nameOf(file)
		if !ok || !isModule(file) || x.modules[name].file != "" {
			return badLine(line)
		}
		m := module{file: file}
		for _, dep := range strings.Fields(deps) {
			if !isModule(dep) {
				return badLine(line)
			}
			m.needs = append(m.needs, nameOf(dep))
		}
		x.modules[name] = m
	}
	return nil
}

// check checks that every module that another needs has a line of its own.
func (x *index) check() error {
	for name, m := range x.modules {
		for _, dep := range m.needs {
			if x.modules[dep].file == "" {
				return fmt.Errorf("modules.dep: %w: %s needs %s, which is not there", ErrIndex, name, dep)
			}
		}
	}
	return nil
}

// parseAlias reads "alias PATTERN MODULE". Patterns are for devices, which
// report themselves with long names; what the kernel asks for has none.
func (x *index) parseAlias(text string) error {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		switch {
		case len(w) == 0 || strings.HasPrefix(w[0], "#"):
		case len(w) != 3 || w[0] != "alias":
			return badLine(line)
		case !strings.ContainsAny(w[1], "*?["):
			x.aliases[normal(w[1])] = append(x.aliases[normal(w[1])], normal(w[2]))
		}
	}
	return nil
}

// parseSoftdep reads "softdep MODULE pre: NAME… post: NAME…". Names before
// either word mean nothing to modprobe, and some modules have such.
func (x *index) parseSoftdep(text string) error {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 || strings.HasPrefix(w[0], "#") {
			continue
		}
		if len(w) < 2 || w[0] != "softdep" {
			return badLine(line)
		}
		s := x.soft[normal(w[1])]
		var into *[]string
		for _, word := range w[2:] {
			switch {
			case word == "pre:":
				into = &s.pre
			case word == "post:":
				into = &s.post
			case into != nil:
				*into = append(*into, normal(word))
			}
		}
		x.soft[normal(w[1])] = s
	}
	return nil
}

// parseBuiltin reads one file name a line, as if it were a module.
func (x *index) parseBuiltin(text string) error {
	for line := range strings.Lines(text) {
		file := strings.TrimSuffix(line, "\n")
		if !isModule(file) {
			return badLine(line)
		}
		x.builtin[nameOf(file)] = true
	}
	return nil
}

// parseModinfo reads "MODULE.KEY=VALUE", each ended by a NUL: what the modules
// in the kernel say of themselves. A value may have line breaks.
func (x *index) parseModinfo(text string) error {
	for text != "" {
		item, rest, ended := strings.Cut(text, "\x00")
		key, value, ok := strings.Cut(item, "=")
		if !ended || !ok {
			return badLine(item)
		}
		if strings.HasSuffix(key, ".alias") {
			x.builtin[normal(value)] = true
		}
		text = rest
	}
	return nil
}

func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// isModule reports whether file can be a module's name below a tree.
func isModule(file string) bool {
	_, _, ok := strings.Cut(path.Base(file), ".ko")
	return ok && fs.ValidPath(file) && nameOf(file) != "" && !strings.ContainsAny(file, " \t\n")
}

// nameOf returns the name of the module in a file.
func nameOf(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return normal(base)
}
