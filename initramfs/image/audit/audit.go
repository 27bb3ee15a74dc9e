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
	"maps"
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
		{"ssh-host-key", "all guests of this image answer with one key, which everybody who had this root knows", findHostKeys},
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
	Word   string // of the command line, that has systemd leave it alone; or ""
}

// Bounds of what is looked at.
const (
	maxText     = 1 << 20 // bytes of a configuration file
	maxPerKind  = 8       // findings; the rest is counted
	maxUnits    = 1 << 14 // that something pulls in
	maxFragment = 64      // files of one unit
)

// errTooLarge is for files and folders that are larger than any real one.
var errTooLarge = errors.New("it is larger than any that is real")

// Check returns what the file system below top has of all kinds. init is the
// program that is started, an absolute path, and line the command line, as far as
// it is known. hasModules reports whether anything lies where kernel modules do.
func Check(top *fsimage.Node, init, line string) (all []Finding, hasModules bool, err error) {
	r := &root{top: top, init: init, words: strings.Fields(line), texts: make(map[string]string)}
	r.systemd = r.startsSystemd()
	for _, k := range Kinds() {
		paths := k.look(r)
		if more := len(paths) - maxPerKind; more > 0 {
			paths = append(paths[:maxPerKind], fmt.Sprintf("and %d more", more))
		}
		for _, p := range paths {
			f := Finding{Name: k.Name, Path: p, Reason: k.Reason}
			switch {
			case r.systemd && strings.HasPrefix(p, "/etc/fstab: "):
				f.Word = "fstab=no"
			case r.systemd && k.Name == "cloud-init":
				f.Word = "cloud-init=disabled"
			}
			all = append(all, f)
		}
	}
	hasModules = len(r.list("lib/modules")) > 0 || len(r.list("usr/lib/modules")) > 0
	if r.err != nil {
		return nil, false, fmt.Errorf("cannot look through the root file system: %w", r.err)
	}
	return all, hasModules, nil
}

// root is the file system, read with bounds. What is not there reads as
// empty; the first other error is kept, and Check ends with it.
type root struct {
	top     *fsimage.Node
	init    string
	words   []string // of the command line
	systemd bool     // init is systemd
	err     error

	pulled []string // memory of started
	texts  map[string]string
}

func (r *root) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// find follows links on the way and, with last, at the end. It returns nil where
// nothing is, and else the path without links too.
func (r *root) find(name string, last bool) (*fsimage.Node, string) {
	n, p, err := r.top.Find(name, last)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fsimage.ErrLoop) {
		r.fail(err)
	}
	return n, p
}

func (r *root) exists(name string) bool {
	n, _ := r.find(name, true)
	return n != nil
}

func (r *root) file(name string) *fsimage.Node {
	n, _ := r.find(name, true)
	if n == nil || !n.Mode.IsRegular() {
		return nil
	}
	return n
}

func (r *root) read(name string) string {
	n := r.file(name)
	if n == nil {
		return ""
	}
	if n.Size > maxText {
		r.fail(fmt.Errorf("%s: %w", show(name), errTooLarge))
		return ""
	}
	return string(r.data(n))
}

// data returns the beginning of a file, or the text of a link.
func (r *root) data(n *fsimage.Node) []byte {
	b, err := n.Data()
	if err != nil {
		r.fail(err)
	}
	return b
}

func (r *root) list(name string) []string {
	n, _ := r.find(name, true)
	if n == nil || !n.Mode.IsDir() {
		return nil
	}
	names, err := n.Names()
	if err != nil {
		r.fail(err)
	}
	return slices.Sorted(maps.Keys(names))
}

func (r *root) filled(name string) bool {
	n := r.file(name)
	return n != nil && n.Size > 0
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

func begins(name string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(name, w) })
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
