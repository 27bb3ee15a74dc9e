package audit

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// findDisks finds mounts, swap and mappings of disks by a name that any disk
// of the host's can have: a label, a UUID, a place on the bus.
func findDisks(r *root) []string {
	var out []string
	mapped := make(map[string]bool) // by crypttab, where their disks are looked at
	for _, l := range lines(r.read("etc/crypttab")) {
		f := strings.Fields(l)
		if len(f) >= 2 {
			mapped["/dev/mapper/"+f[0]] = true
		}
		if len(f) >= 2 && hostDisk(f[1]) && !(len(f) > 3 && waits(f[3])) {
			out = append(out, "/etc/crypttab: "+quote(l))
		}
	}
	fstab := r.read("etc/fstab")
	if r.systemd && r.switchedOff("fstab") { // of systemd-fstab-generator(8), by which systemd reads it
		fstab = ""
	}
	for _, l := range lines(fstab) {
		f := strings.Fields(l)
		if len(f) < 3 || len(f) > 3 && waits(f[3]) {
			continue
		}
		if hostDisk(f[0]) && !mapped[f[0]] || hostShare(f[2]) {
			out = append(out, "/etc/fstab: "+quote(l))
		}
	}
	if r.systemd {
		out = append(out, r.diskUnits(mapped)...)
	}
	return out
}

// diskUnits finds units that mount, or swap to, a disk of the host's, and what
// the command line has systemd mount.
func (r *root) diskUnits(mapped map[string]bool) []string {
	var out []string
	for _, w := range r.words {
		if extra, ok := strings.CutPrefix(w, "systemd.mount-extra="); ok {
			out = append(out, "the command line: "+quote(extra))
		}
	}
	for _, name := range r.started() {
		switch ext := path.Ext(name); ext {
		case ".automount":
			name = strings.TrimSuffix(name, ext) + ".mount"
		case ".mount", ".swap":
		default:
			continue
		}
		text := r.text(name)
		what := settings(text, "What")
		disk := func(name string) bool { return hostDisk(name) && !mapped[name] }
		if slices.ContainsFunc(what, disk) || slices.ContainsFunc(settings(text, "Type"), hostShare) {
			out = append(out, fmt.Sprintf("%s: %s", show(r.unit(name)), quote(strings.Join(what, " "))))
		}
	}
	return slices.Compact(out)
}

// hostDisk reports whether a name is of a disk that the host provides.
func hostDisk(name string) bool {
	name = strings.Trim(name, `"`)
	if begins(name, "LABEL=", "UUID=", "PARTLABEL=", "PARTUUID=", "ID=") {
		return true
	}
	device, ok := strings.CutPrefix(path.Clean(name), "/dev/")
	if !ok {
		return false
	}
	// These the guest makes itself. What else /dev/mapper has may be on a
	// disk of the host's: its volume groups are found by name.
	return !begins(device, "mapper/cocoroot-", "loop", "zram", "ram", "shm", "pts", "mqueue", "hugepages", "null")
}

// hostShare reports whether a file system's type shows the host's own files.
func hostShare(kind string) bool {
	return slices.Contains([]string{"9p", "virtiofs", "vboxsf", "vmhgfs", "fuse.vmhgfs-fuse"}, kind)
}

// waits reports whether options leave a disk alone until somebody asks for it.
func waits(options string) bool {
	all := strings.Split(options, ",")
	return slices.Contains(all, "noauto") && !slices.Contains(all, "x-systemd.automount")
}
