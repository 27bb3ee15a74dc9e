package audit

import (
	"fmt"
	"path"
	"strings"

	"cocoroot/initramfs/image/fsimage"
)

// findMachineID finds an identity that was given before the first start
// (machine-id(5): empty and "uninitialized" are none).
func findMachineID(r *root) []string {
	return r.each([]string{"etc/machine-id", "var/lib/dbus/machine-id"}, func(name string) bool {
		id := strings.TrimSpace(r.read(name))
		return id != "" && id != "uninitialized"
	})
}

// seeds are the files from which randomness is seeded at a start: systemd's,
// sysvinit's, OpenRC's, busybox's and buildroot's, systemd-boot's.
var seeds = []string{
	"var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "var/lib/random-seed", "var/lib/misc/random-seed",
	"etc/random-seed", "etc/random.seed", "var/lib/seedrng/seed.credit", "var/lib/seedrng/seed.no-credit", "boot/loader/random-seed",
}

func findSeeds(r *root) []string { return r.each(seeds, r.filled) }

// each returns the names that a test finds, one of each file.
func (r *root) each(names []string, test func(string) bool) []string {
	var out []string
	seen := make(map[*fsimage.Node]bool)
	for _, name := range names {
		if n, _ := r.find(name, true); n != nil && !seen[n] && test(name) {
			seen[n] = true
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

// findPasswords finds accounts without a password: an empty second field in
// shadow(5), or in passwd(5).
func findPasswords(r *root) []string {
	var out []string
	for _, file := range []string{"etc/shadow", "etc/passwd"} {
		for _, l := range lines(r.read(file)) {
			name, rest, _ := strings.Cut(l, ":")
			if password, _, _ := strings.Cut(rest, ":"); password == "" {
				out = append(out, fmt.Sprintf("/%s: %s", file, quote(name)))
			}
		}
	}
	return out
}

// quote shows a text of the image's.
func quote(s string) string { return fmt.Sprintf("%.64q", s) }
