package audit

import (
	"path"
	"strings"
)

// findMachineID finds an identity that was given before the first start
// (machine-id(5): empty and "uninitialized" are none).
func findMachineID(r *root) []string {
	var out []string
	seen := make(map[string]bool)
	for _, name := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		p, ok := r.resolve(name)
		if id := strings.TrimSpace(r.read(name)); ok && !seen[p] && id != "" && id != "uninitialized" {
			out = append(out, show(name))
		}
		seen[p] = true
	}
	return out
}

// seeds are the files from which randomness is seeded at a start: systemd's,
// sysvinit's, OpenRC's, busybox's and buildroot's, systemd-boot's.
var seeds = []string{
	"var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "var/lib/random-seed", "var/lib/misc/random-seed",
	"etc/random-seed", "etc/random.seed", "var/lib/seedrng/seed.credit", "var/lib/seedrng/seed.no-credit", "boot/loader/random-seed",
}

func findSeeds(r *root) []string {
	var out []string
	seen := make(map[string]bool)
	for _, name := range seeds {
		if p, ok := r.resolve(name); ok && !seen[p] && r.filled(name) {
			seen[p] = true
			out = append(out, show(name))
		}
	}
	return out
}

func findHostKeys(r *root) []string {
	var out []string
	for _, dir := range []string{"etc/ssh", "etc/dropbear"} {
		for _, name := range r.list(dir) {
			ssh, _ := path.Match("ssh_host_*_key", name)
			dropbear, _ := path.Match("dropbear_*_host_key", name)
			if (ssh || dropbear) && r.filled(dir+"/"+name) {
				out = append(out, show(dir+"/"+name))
			}
		}
	}
	return out
}
