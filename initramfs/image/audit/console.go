package audit

import (
	"cmp"
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

func findConsole(r *root) []string {
	name := path.Base(r.init)
	_, resolved := r.find(r.init, true)
	if slices.Contains(shells, name) || slices.Contains(shells, path.Base(resolved)) {
		return []string{show(r.init)} // init=/bin/sh
	}
	if r.systemd {
		return r.systemdConsole()
	}
	args := initArguments(r.words)
	if slices.Contains([]string{"busybox", "toybox"}, name) && len(args) > 0 {
		name = args[0] // which of its programs it is
		args[0] = "/" + name
	}
	if text := startsShell(args, name == "init"); text != "" {
		return []string{"the command line: " + quote(text)}
	}
	out := r.inittab()
	if path.Base(resolved) == "busybox" && (name == "init" || name == "linuxrc") && !r.exists("etc/inittab") {
		// Its own table has a shell for whoever presses Enter (init/init.c).
		out = append(out, show(resolved)+" without /etc/inittab")
	}
	dirs := slices.Clone(scriptDirs)
	for _, level := range r.list("etc/runlevels") { // OpenRC's folders of what is started
		dirs = append(dirs, "etc/runlevels/"+level)
	}
	for _, dir := range dirs {
		for _, n := range r.list(dir) {
			// Links in a runlevel start something; a script by itself does not.
			if starts := !strings.HasSuffix(dir, "init.d"); starts && begins(n, "getty", "agetty") {
				out = append(out, show(dir+"/"+n))
			}
		}
	}
	return out
}

func (r *root) systemdConsole() []string {
	var out []string
	if p := r.generator("systemd-getty-generator"); p != "" && !r.switchedOff("systemd.getty_auto") && !r.serialMasked() {
		out = append(out, show(p))
	}
	for _, name := range r.started() {
		if path.Ext(name) == ".service" && (begins(name, prompts...) || asks(r.text(name))) &&
			!(name == "systemd-firstboot.service" && r.switchedOff("systemd.firstboot")) {
			out = append(out, show(cmp.Or(r.unit(name), name)))
		}
	}
	out = append(out, r.crashShell()...)
	// These are started when something fails, or when somebody presses keys.
	for _, name := range []string{"emergency.service", "rescue.service", "autovt@tty1.service"} {
		if p := r.unit(name); p != "" && !r.masked(name) && r.unitOf(name) != "" {
			out = append(out, show(p))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// crashShell finds what has systemd start a shell on the console when it
// crashes (systemd-system.conf(5), systemd(1)).
func (r *root) crashShell() []string {
	var out []string
	on := func(value string) bool {
		return slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(value))
	}
	var files []string
	for _, dir := range []string{"etc/systemd", "usr/local/lib/systemd", "usr/lib/systemd", "lib/systemd"} {
		files = append(files, dir+"/system.conf")
		for _, name := range r.list(dir + "/system.conf.d") {
			files = append(files, dir+"/system.conf.d/"+name)
		}
	}
	for _, f := range files {
		if slices.ContainsFunc(settings(r.read(f), "CrashShell"), on) {
			out = append(out, show(f)+": CrashShell")
		}
	}
	for _, w := range r.words {
		if value, ok := strings.CutPrefix(w, "systemd.crash_shell"); ok && (value == "" || on(strings.TrimPrefix(value, "="))) {
			out = append(out, "the command line: "+quote(w))
		}
	}
	return out
}

// initArguments returns what the kernel gives to init: what follows "--", and
// before that every word that it does not know. Which those are is a guess here:
// those with a value or a dot are no arguments, and a few others are left out.
func initArguments(words []string) []string {
	var out []string
	for i, w := range words {
		if w == "--" {
			return append(out, slices.Clone(words[i+1:])...)
		}
		if w = strings.Trim(w, `"`); !strings.ContainsAny(w, "=.") && !slices.Contains([]string{"quiet", "ro", "rw", "debug", "nokaslr"}, w) {
			out = append(out, w)
		}
	}
	return out
}

// startsShell returns the arguments of init that start a shell or a login which
// reads its input, or with which sysvinit starts one. A shell that is given a
// command or a script does not.
func startsShell(args []string, sysvinit bool) string {
	for i, a := range args {
		name := path.Base(strings.Trim(a, `"'-`))
		program := strings.Contains(a, "/")
		switch {
		case program && (name == "login" || name == "sulogin" || strings.HasSuffix(name, "getty")),
			sysvinit && slices.Contains([]string{"single", "S", "s", "1", "b", "emergency"}, a):
			return strings.Join(args[i:], " ")
		case slices.Contains(shells, name):
			rest := args[i+1:]
			for len(rest) > 0 && strings.HasPrefix(rest[0], "-") && !strings.Contains(rest[0], "c") {
				rest = rest[1:]
			}
			if len(rest) == 0 {
				return strings.Join(args[i:], " ")
			}
		}
	}
	return ""
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

// asks reports whether a unit starts a login or a shell for a terminal, or has its
// programs read one, whatever they are (systemd.exec(5)).
func asks(text string) bool {
	return slices.ContainsFunc(settings(text, "ExecStart", "ExecStartPre", "ExecStartPost"), logsIn) ||
		slices.ContainsFunc(settings(text, "StandardInput"), func(v string) bool { return v == "tty" || v == "tty-force" || v == "tty-fail" }) ||
		slices.ContainsFunc(settings(text, "TTYPath"), func(v string) bool { return v != "" })
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
