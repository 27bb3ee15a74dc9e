package audit

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Where systemd looks, in the order in which it looks (systemd.unit(5), systemd.generator(7)).
// What is in /run is not in an image.
var (
	unitDirs = []string{
		"etc/systemd/system.control", "etc/systemd/system", "usr/local/lib/systemd/system",
		"usr/lib/systemd/system", "lib/systemd/system",
	}
	generatorDirs = []string{
		"etc/systemd/system-generators", "usr/local/lib/systemd/system-generators",
		"usr/lib/systemd/system-generators", "lib/systemd/system-generators",
	}
)

// isUnit reports whether a file's name is a unit's of a type that starts
// something.
func isUnit(name string) bool {
	return slices.Contains([]string{".service", ".target", ".socket", ".path", ".timer", ".mount", ".automount", ".swap"}, path.Ext(name))
}

// first returns the first of the folders' files with a name, or "".
func (r *root) first(dirs []string, name string) string {
	for _, dir := range dirs {
		if n, _ := r.find(dir+"/"+name, false); n != nil && !strings.Contains(name, "/") {
			return dir + "/" + name
		}
	}
	return ""
}

// unit returns the file of a unit: its own, or its template's.
func (r *root) unit(name string) string {
	if p := r.first(unitDirs, name); p != "" {
		return p
	}
	if t := template(name); t != "" {
		return r.first(unitDirs, t)
	}
	return ""
}

// template returns a@.service for a@b.service, or "".
func template(name string) string {
	before, after, ok := strings.Cut(name, "@")
	ext := path.Ext(after)
	if !ok || after == ext {
		return ""
	}
	return before + "@" + ext
}

// generator returns the file of a generator that runs, or "".
func (r *root) generator(name string) string {
	p := r.first(generatorDirs, name)
	if p == "" || r.null(p) {
		return ""
	}
	return p
}

// masked reports whether a unit cannot be started: it is masked in the image,
// or by a word of the command line (which systemd-debug-generator reads).
func (r *root) masked(name string) bool {
	for _, n := range []string{name, template(name)} {
		if n != "" && r.maskedByLine(n) {
			return true
		}
	}
	p := r.unit(name)
	return p != "" && r.null(p)
}

func (r *root) maskedByLine(name string) bool {
	return r.systemd && slices.Contains(r.words, "systemd.mask="+name) && r.generator("systemd-debug-generator") != ""
}

// switchedOff reports whether the last word of the line with a name says no.
func (r *root) switchedOff(name string) bool {
	off := false
	for _, w := range r.words {
		if v, ok := strings.CutPrefix(w+"=", name+"="); ok { // the bare word says yes
			v = strings.TrimSuffix(v, "=")
			off = slices.Contains([]string{"0", "no", "n", "false", "f", "off"}, strings.ToLower(v))
		}
	}
	return off
}

// null reports whether a file is empty, or a link to /dev/null, which is how
// systemd has things masked.
func (r *root) null(name string) bool {
	for range 8 {
		text, ok := r.link(name)
		if !ok {
			break
		}
		if !strings.HasPrefix(text, "/") {
			text = path.Join("/", path.Dir(name), text)
		}
		if name = path.Clean(text)[1:]; name == "dev/null" {
			return true
		}
	}
	n := r.file(name)
	return n != nil && n.Size == 0
}

// link returns the text of a link. Folders on the way to it may be links.
func (r *root) link(name string) (string, bool) {
	n, _ := r.find(name, false)
	if n == nil || n.Mode.Type() != fs.ModeSymlink {
		return "", false
	}
	return string(r.data(n)), true
}

// started returns the names of the units that something pulls in: a link in a
// folder like multi-user.target.wants, or a setting of another unit that is there.
func (r *root) started() []string {
	if r.pulled != nil {
		return r.pulled
	}
	names, links := make(map[string]bool), make(map[string]bool)
	for _, dir := range unitDirs {
		for _, by := range r.list(dir) {
			ext := path.Ext(by)
			switch {
			case ext == ".wants" || ext == ".requires" || ext == ".upholds":
				if r.masked(strings.TrimSuffix(by, ext)) {
					continue
				}
				for _, name := range r.list(dir + "/" + by) {
					if link := by + "/" + name; !links[link] {
						links[link] = true // whatever another folder says of it
						names[name] = names[name] || isUnit(name) && !r.masked(name) && !r.null(dir+"/"+link)
					}
				}
			case isUnit(by) && !r.masked(by):
				for _, value := range settings(r.text(by), "Wants", "Requires", "Requisite", "BindsTo", "Upholds", "OnFailure", "OnSuccess", "Unit", "Service", "Sockets") {
					for _, name := range strings.Fields(value) {
						names[name] = names[name] || isUnit(name) && !r.masked(name)
					}
				}
			}
			if len(names) > maxUnits {
				r.fail(errTooLarge)
				return nil
			}
		}
	}
	maps.DeleteFunc(names, func(_ string, starts bool) bool { return !starts })
	r.pulled = slices.Sorted(maps.Keys(names))
	return r.pulled
}

// text returns what a unit's file and its drop-ins say.
func (r *root) text(name string) string {
	if text, ok := r.texts[name]; ok {
		return text
	}
	var out strings.Builder
	files := 0
	add := func(p string) {
		if files++; files <= maxFragment {
			out.WriteString(r.read(p) + "\n")
		}
	}
	if p := r.unit(name); p != "" {
		add(p)
	}
	for _, n := range []string{name, template(name)} {
		if n == "" {
			continue
		}
		for _, dir := range unitDirs {
			for _, d := range r.list(dir + "/" + n + ".d") {
				if strings.HasSuffix(d, ".conf") {
					add(dir + "/" + n + ".d/" + d)
				}
			}
		}
	}
	r.texts[name] = out.String()
	return r.texts[name]
}

// settings returns the values of a unit's settings with one of the names.
func settings(text string, names ...string) []string {
	var out []string
	for _, l := range lines(text) {
		key, value, ok := strings.Cut(l, "=")
		if ok && slices.Contains(names, strings.TrimSpace(key)) {
			out = append(out, strings.TrimSpace(value))
		}
	}
	return out
}
