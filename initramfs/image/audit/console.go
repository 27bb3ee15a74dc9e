package audit

import (
	"path"
	"slices"
	"strings"
)

// shells are programs that do what is typed.
var shells = []string{"sh", "ash", "bash", "dash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "hush"}

// prompts are units of systemd's that ask on a terminal as soon as they are
// pulled in.
var prompts = []string{
	"getty@", "autovt@", "serial-getty@", "console-getty.service", "container-getty@", "console-shell.service",
	"debug-shell.service", "systemd-firstboot.service",
}

// findConsole finds what talks to somebody at the console.
func findConsole(r *root) []string {
	name := path.Base(r.init)
	resolved, _ := r.resolve(r.init)
	if slices.Contains(shells, name) || slices.Contains(shells, path.Base(resolved)) {
		return []string{show(r.init)} // init=/bin/sh
	}
	if r.systemd {
		return r.systemdConsole()
	}
	out := r.inittab()
	if path.Base(resolved) == "busybox" && (name == "init" || name == "linuxrc") && !r.exists("etc/inittab") {
		// Its own table has a shell for whoever presses Enter (init/init.c).
		out = append(out, show(resolved)+" without /etc/inittab")
	}
	for _, dir := range append(slices.Clone(scriptDirs), runlevels(r)...) {
		for _, n := range r.list(dir) {
			// Links in a runlevel start something; a script alone does not.
			if starts := !strings.HasSuffix(dir, "init.d"); starts && (strings.HasPrefix(n, "getty") || strings.HasPrefix(n, "agetty")) {
				out = append(out, show(dir+"/"+n))
			}
		}
	}
	return out
}

// runlevels returns OpenRC's folders of what is started.
func runlevels(r *root) []string {
	var out []string
	for _, level := range r.list("etc/runlevels") {
		out = append(out, "etc/runlevels/"+level)
	}
	return out
}

// systemdConsole finds the units that ask on a terminal.
func (r *root) systemdConsole() []string {
	var out []string
	if p := r.generator("systemd-getty-generator"); p != "" && !r.switchedOff("systemd.getty_auto") && !r.serialMasked() {
		out = append(out, show(p))
	}
	for _, p := range r.wanted() {
		name := path.Base(p)
		if name == "systemd-firstboot.service" && r.switchedOff("systemd.firstboot") {
			continue
		}
		known := slices.ContainsFunc(prompts, func(s string) bool { return strings.HasPrefix(name, s) })
		if known || path.Ext(name) == ".service" && asks(r.text(name)) {
			out = append(out, show(p))
		}
	}
	// These are started when something fails, or when somebody presses keys.
	for _, name := range []string{"emergency.service", "rescue.service", "autovt@tty1.service"} {
		if p := r.unit(name); p != "" && !r.masked(name) && r.unitOf(name) != "" {
			out = append(out, show(p))
		}
	}
	return out
}

// serialMasked reports whether the units that the getty generator starts on
// the kernel's consoles are masked.
func (r *root) serialMasked() bool {
	masked := r.masked("serial-getty@.service")
	for _, w := range r.words {
		if name, ok := strings.CutPrefix(w, "console="); ok {
			name, _, _ = strings.Cut(name, ",")
			if masked = r.masked("serial-getty@" + name + ".service"); !masked {
				return false
			}
		}
	}
	return masked
}

// unitOf returns the unit's file, unless it is another name of a masked unit:
// autovt@.service is a link to getty@.service.
func (r *root) unitOf(name string) string {
	p := r.unit(name)
	if text, ok := r.link(p); ok {
		if alias := path.Base(text); alias != path.Base(p) && isUnit(alias) && r.masked(alias) {
			return ""
		}
	}
	return p
}

// asks reports whether a unit starts a login or a shell for a terminal.
func asks(text string) bool {
	for _, command := range settings(text, "ExecStart", "ExecStartPre", "ExecStartPost") {
		if logsIn(command) {
			return true
		}
	}
	return false
}

// logsIn reports whether a command is a login program, or has a getty in it.
func logsIn(command string) bool {
	for i, f := range strings.Fields(command) {
		name := strings.Trim(path.Base(f), `-@:+!"';`)
		first := i == 0 && slices.Contains([]string{"sulogin", "login", "systemd-sulogin-shell"}, name)
		if first || strings.HasSuffix(name, "getty") {
			return true
		}
	}
	return false
}

// inittab finds what /etc/inittab starts on a terminal. The formats of
// sysvinit and of busybox have the action and the command in one place.
func (r *root) inittab() []string {
	var out []string
	for _, l := range lines(r.read("etc/inittab")) {
		f := strings.SplitN(l, ":", 4)
		if len(f) < 4 || f[2] == "off" || f[2] == "ctrlaltdel" || f[2] == "shutdown" || f[2] == "restart" {
			continue
		}
		command := strings.TrimSpace(f[3])
		program, _, _ := strings.Cut(strings.TrimLeft(command, "-@"), " ")
		shell := slices.Contains(shells, path.Base(program)) && (f[2] == "respawn" || strings.HasPrefix(command, "-"))
		if f[2] == "askfirst" || shell || logsIn(command) {
			out = append(out, "/etc/inittab: "+quote(l))
		}
	}
	return out
}
