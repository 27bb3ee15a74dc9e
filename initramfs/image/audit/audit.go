// Package audit looks through a finished root file system for what obeys the
// host once it runs: agents that take orders from the hypervisor, logins on
// the console, which is the host's, disks that the host chooses.
//
// It looks at the files that are sealed, wherever they come from, and goes by a
// list of known doors: names, units and configuration files in the places where
// distributions keep them, and what these have systemd do. When in doubt it
// reports a finding: an installed agent counts as running unless it is masked.
//
// It proves nothing. A program that nobody here has heard of, or one that was
// renamed, may still do as the host says.
package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"cocoroot/initramfs/image/fsimage"
)

// NoInit is the name of the finding that there is nothing to start.
const NoInit = "no-init"

// ConsoleLogin is the name of the finding that somebody can log in on the
// console.
const ConsoleLogin = "console-login"

// Kind is one kind of finding. The names are stable: scripts use them.
type Kind struct {
	Name   string
	Reason string // what the host could do
	look   func(r *root) []string
}

// Kinds returns all kinds, in the order in which they are looked for.
func Kinds() []Kind {
	all := []Kind{
		{NoInit, "the guest would end here, with ROOT-INIT or without a word", findInit},
		{"empty-password", "an account without a password lets anybody in, on the console too, which is the host's", findPasswords},
		{ConsoleLogin, "the console is the host's: it can type there", findConsole},
		{"host-socket", "the host, and nobody else, reaches what listens on vsock", findSockets},
		{"host-device", "the host says what devices there are: this starts something when it adds one", findDevices},
		{"host-disk", "the host says what disks there are: one of its own with this name would be used", findDisks},
		{"machine-id", "all guests of this image, and all their starts, have one identity and what derives from it", findMachineID},
		{"random-seed", "every start stirs in the same seed, as if it were new randomness", findSeeds},
		{"ssh-host-key", "all guests of this image answer with one key, which everybody has who had this root", findHostKeys},
	}
	for _, a := range agents {
		all = append(all, Kind{a.name, a.reason, a.find})
	}
	return all
}

// Finding is one thing that was found.
type Finding struct {
	Name   string // of its kind
	Path   string // absolute, what shows it; quoted where it must be
	Reason string
}

// Bounds of what is looked at.
const (
	maxText     = 1 << 20 // bytes of a configuration file
	maxFolder   = 1 << 16 // entries
	maxPerKind  = 8       // findings; the rest is counted
	maxUnits    = 1 << 14 // links in all wants folders
	maxFragment = 64      // files of one unit
)

// ErrTooLarge is for files and folders that are larger than any real one.
var ErrTooLarge = errors.New("it is larger than any that is real")

// Check returns what the file system has of all kinds. init is the program
// that is started, an absolute path, and line the command line, as far as it
// is known.
func Check(fsys fs.ReadLinkFS, init, line string) ([]Finding, error) {
	r := &root{fs: fsys, init: init, words: strings.Fields(line)}
	r.systemd = r.startsSystemd()
	var all []Finding
	for _, k := range Kinds() {
		paths := k.look(r)
		for i, p := range paths {
			if i == maxPerKind {
				p = fmt.Sprintf("and %d more", len(paths)-i)
			}
			all = append(all, Finding{k.Name, p, k.Reason})
			if i == maxPerKind {
				break
			}
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("cannot look through the root file system: %w", r.err)
	}
	return all, nil
}

// root is the file system, read with bounds. What is not there reads as
// empty; the first other error is kept, and Check ends with it.
type root struct {
	fs      fs.ReadLinkFS
	init    string
	words   []string // of the command line
	systemd bool     // init is systemd
	err     error

	units  []string // memory of wanted
	pulled []string // and of started
	lists  map[string][]string
	texts  map[string]string
}

func (r *root) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// resolve follows links; ok is false where nothing is.
func (r *root) resolve(name string) (string, bool) {
	p, err := fsimage.Resolve(r.fs, name)
	switch {
	case err == nil:
		return p, true
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fsimage.ErrLoop):
		r.fail(err)
	}
	return "", false
}

// stat follows links.
func (r *root) stat(name string) fs.FileInfo {
	p, ok := r.resolve(name)
	if !ok {
		return nil
	}
	fi, err := r.fs.Lstat(p)
	if err != nil {
		r.fail(err)
		return nil
	}
	return fi
}

func (r *root) exists(name string) bool { return r.stat(name) != nil }

// read returns the text of a regular file.
func (r *root) read(name string) string {
	fi := r.stat(name)
	if fi == nil || !fi.Mode().IsRegular() {
		return ""
	}
	if fi.Size() > maxText {
		r.fail(fmt.Errorf("%s: %w", show(name), ErrTooLarge))
		return ""
	}
	return string(r.head(name, fi.Size()))
}

// head returns the first bytes of a regular file, n at most.
func (r *root) head(name string, n int64) []byte {
	p, ok := r.resolve(name)
	if !ok {
		return nil
	}
	f, err := r.fs.Open(p)
	if err != nil {
		r.fail(err)
		return nil
	}
	defer f.Close()
	b, err := readAtMost(f, n)
	if err != nil {
		r.fail(err)
	}
	return b
}

// list returns the sorted names in a folder.
func (r *root) list(name string) []string {
	if names, ok := r.lists[name]; ok {
		return names
	}
	fi := r.stat(name)
	if fi == nil || !fi.IsDir() {
		return nil
	}
	p, _ := r.resolve(name)
	all, err := fs.ReadDir(r.fs, p)
	if err == nil && len(all) > maxFolder {
		err = fmt.Errorf("%s: %w", show(name), ErrTooLarge)
	}
	if err != nil {
		r.fail(err)
		return nil
	}
	names := make([]string, 0, len(all))
	for _, e := range all {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	if r.lists == nil {
		r.lists = make(map[string][]string)
	}
	r.lists[name] = names
	return names
}

// filled reports whether a regular file has anything in it.
func (r *root) filled(name string) bool {
	fi := r.stat(name)
	return fi != nil && fi.Mode().IsRegular() && fi.Size() > 0
}

// show returns a path for people, who may have been sent it by others.
func show(name string) string {
	name = "/" + strings.TrimPrefix(path.Clean(name), "/")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return fmt.Sprintf("%.128q", name)
		}
	}
	return name[:min(len(name), 256)]
}

// lines returns a text's lines without comments and blanks around.
func lines(text string) []string {
	var out []string
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			out = append(out, l)
		}
	}
	return out
}
