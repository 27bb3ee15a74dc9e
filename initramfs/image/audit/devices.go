package audit

import (
	"fmt"
	"slices"
	"strings"
)

// findSockets finds what listens for the host on vsock (systemd.socket(5),
// systemd-ssh-generator(8)).
func findSockets(r *root) []string {
	if !r.systemd {
		return nil
	}
	var out []string
	for _, name := range r.started() {
		if !strings.HasSuffix(name, ".socket") {
			continue
		}
		for _, at := range settings(r.text(name), "ListenStream", "ListenDatagram", "ListenSequentialPacket") {
			if strings.HasPrefix(at, "vsock:") {
				out = append(out, fmt.Sprintf("%s: %s", show(r.unit(name)), quote(at)))
			}
		}
	}
	if p := r.generator("systemd-ssh-generator"); p != "" && !r.switchedOff("systemd.ssh_auto") {
		out = append(out, show(p))
	}
	return out
}

// ruleDirs are where udev looks (udev(7)). What is in /run is not in an image.
var ruleDirs = []string{"etc/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d"}

// findDevices finds udev rules that have systemd start a unit. Those of
// systemd's own that it ships rules for take no orders, and a target's units are
// looked at where they are wanted.
func findDevices(r *root) []string {
	if !r.systemd {
		return nil
	}
	var out []string
	seen := make(map[string]bool)
	for _, dir := range ruleDirs {
		for _, file := range r.list(dir) {
			_, p := r.find(dir+"/"+file, true)
			if !strings.HasSuffix(file, ".rules") || r.first(ruleDirs, file) != dir+"/"+file || seen[p] {
				continue
			}
			seen[p] = true
			for _, l := range lines(strings.ReplaceAll(r.read(dir+"/"+file), "\\\n", " ")) {
				if unit := r.ruleStarts(l); unit != "" {
					out = append(out, fmt.Sprintf("%s: %s", show(dir+"/"+file), quote(unit)))
				}
			}
		}
	}
	return slices.Compact(out)
}

// ruleStarts returns what a rule starts, or "".
func (r *root) ruleStarts(rule string) string {
	for _, part := range strings.Split(rule, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		value = strings.Trim(value, `=" `)
		switch {
		case !ok:
		case strings.HasPrefix(key, "ENV{SYSTEMD_WANTS}"):
			for _, name := range strings.Fields(value) {
				own := strings.HasPrefix(name, "systemd-") || strings.HasSuffix(name, ".target") || strings.HasPrefix(name, "sys-")
				if !own && r.unit(name) != "" && !r.masked(name) {
					return name
				}
			}
		case strings.HasPrefix(key, "RUN"):
			f := strings.Fields(value)
			if i := slices.IndexFunc(f, func(w string) bool { return strings.HasSuffix(w, "systemctl") || strings.HasSuffix(w, "systemd-run") }); i >= 0 {
				return strings.Join(f[i:], " ")
			}
		}
	}
	return ""
}
