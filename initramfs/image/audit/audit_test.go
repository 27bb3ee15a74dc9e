package audit

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cocoroot/initramfs/image/fsimage"
)

// program returns an ELF program for a machine, with a loader or without.
func program(machine uint16, loader string) string {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[18:], machine)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 1)
	if loader != "" {
		le.PutUint32(b[64:], 3)
		le.PutUint64(b[64+8:], uint64(len(b)))
		le.PutUint64(b[64+32:], uint64(len(loader)+1))
	}
	return string(b) + loader + "\x00"
}

// tree makes a file system: "-> x" is a link, the rest are files, executable
// ones in folders named bin, sbin, lib and systemd.
func tree(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, content := range files {
		f := &fstest.MapFile{Data: []byte(content), Mode: 0o755}
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			f.Data, f.Mode = []byte(to), fs.ModeSymlink|0o777
		}
		m[name] = f
	}
	return m
}

const systemdLine = "console=ttyS0 systemd.getty_auto=no"

// systemdRoot adds to a root that starts systemd.
func systemdRoot(more map[string]string) map[string]string {
	out := map[string]string{
		"sbin/init": "-> /lib/systemd/systemd", "lib/systemd/systemd": program(62, ""),
		"lib/systemd/system-generators/systemd-debug-generator": "x",
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func shown(t *testing.T, fsys fs.ReadLinkFS) *fsimage.Node {
	t.Helper()
	root, err := fsimage.Of(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func names(all []Finding) []string {
	var out []string
	for _, f := range all {
		out = append(out, f.Name)
	}
	return slices.Compact(out)
}

func TestCheck(t *testing.T) {
	plain := map[string]string{"sbin/init": program(62, "")}
	busybox := map[string]string{"sbin/init": "-> /bin/busybox", "bin/busybox": program(62, "")}
	with := func(base map[string]string, pairs ...string) map[string]string {
		out := map[string]string{}
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	sd := systemdRoot(nil)
	for _, tc := range []struct {
		name  string
		files map[string]string
		init  string
		line  string
		want  string // names, with blanks between
	}{
		{"a program", plain, "", "", ""},
		{"systemd", sd, "", systemdLine, ""},
		{"nothing", map[string]string{"etc/x": ""}, "", "", "no-init"},
		{"a loop", map[string]string{"sbin/init": "-> /sbin/init"}, "", "", "no-init"},
		{"another processor", map[string]string{"sbin/init": program(183, "")}, "", "", "no-init"},
		{"no loader", map[string]string{"sbin/init": program(62, "/lib64/ld.so")}, "", "", "no-init"},
		{"a loader", map[string]string{"sbin/init": program(62, "/lib64/ld.so"), "lib64/ld.so": "x"}, "", "", ""},
		{"a script", map[string]string{"sbin/init": "#! /bin/x -e\n", "bin/x": program(62, "")}, "", "", ""},
		{"a script of nothing", map[string]string{"sbin/init": "#!/bin/x\n"}, "", "", "no-init"},
		{"a script of itself", map[string]string{"sbin/init": "#!/sbin/init\n"}, "", "", "no-init"},
		{"text", map[string]string{"sbin/init": "hello"}, "", "", "no-init"},
		{"another init", map[string]string{"app": program(62, "")}, "/app", "", ""},

		{"root without password", with(plain, "etc/shadow", "root::19000::::::\n"), "", "", "empty-password"},
		{"passwd without password", with(plain, "etc/passwd", "root:x:0:0::/:/bin/sh\nu::1:1::/:/bin/sh\n"), "", "", "empty-password"},
		{"locked accounts", with(plain, "etc/shadow", "root:*:1::::::\nu:!:1::::::\n# c\n", "etc/passwd", "root:x:0:0::/:/bin/sh\n"), "", "", ""},

		{"getty generator", with(sd, "lib/systemd/system-generators/systemd-getty-generator", "x"), "", "console=ttyS0", ConsoleLogin},
		{"getty generator, off", with(sd, "lib/systemd/system-generators/systemd-getty-generator", "x"), "", systemdLine, ""},
		{"getty generator, on again", with(sd, "lib/systemd/system-generators/systemd-getty-generator", "x"), "", systemdLine + " systemd.getty_auto=yes", ConsoleLogin},
		{"getty generator, masked", with(sd, "lib/systemd/system-generators/systemd-getty-generator", "x", "etc/systemd/system-generators/systemd-getty-generator", "-> /dev/null"), "", "", ""},
		{"getty wanted", with(sd, "etc/systemd/system/getty.target.wants/getty@tty1.service", "-> /lib/systemd/system/getty@.service", "lib/systemd/system/getty@.service", "x"), "", systemdLine, ConsoleLogin},
		{"getty wanted, masked by the line", with(sd, "etc/systemd/system/getty.target.wants/getty@tty1.service", "-> /lib/systemd/system/getty@.service", "lib/systemd/system/getty@.service", "x"), "", systemdLine + " systemd.mask=getty@.service", ""},
		{"getty wanted, target masked", with(sd, "etc/systemd/system/getty.target", "-> /dev/null", "etc/systemd/system/getty.target.wants/getty@tty1.service", "x", "lib/systemd/system/getty@.service", "x"), "", systemdLine, ""},
		{"a unit with agetty", with(sd, "etc/systemd/system/a.target.wants/own.service", "x", "etc/systemd/system/own.service", "[Service]\nExecStart=-/sbin/agetty -a root ttyS0\n"), "", systemdLine, ConsoleLogin},
		{"a unit with login as an argument", with(sd, "etc/systemd/system/a.target.wants/own.service", "x", "etc/systemd/system/own.service", "[Service]\nExecStart=/bin/serve login\n"), "", systemdLine, ""},
		{"a getty that nothing wants", with(sd, "lib/systemd/system/serial-getty@.service", "x"), "", systemdLine, ""},
		{"emergency shell", with(sd, "lib/systemd/system/emergency.service", "x"), "", systemdLine, ConsoleLogin},
		{"emergency shell, masked", with(sd, "lib/systemd/system/emergency.service", "x"), "", systemdLine + " systemd.mask=emergency.service", ""},
		{"inittab", with(plain, "etc/inittab", "ttyS0::respawn:/sbin/getty -L 115200 ttyS0\n"), "", "", ConsoleLogin},
		{"inittab with askfirst", with(plain, "etc/inittab", "::askfirst:-/bin/sh\n"), "", "", ConsoleLogin},
		{"inittab without", with(busybox, "etc/inittab", "::sysinit:/etc/init.d/rcS\n::ctrlaltdel:/sbin/getty\n"), "", "", ""},
		{"inittab beside systemd", with(sd, "etc/inittab", "::askfirst:-/bin/sh\n"), "", systemdLine, ""},
		{"busybox's own table", busybox, "", "", ConsoleLogin},
		{"a shell", map[string]string{"bin/sh": "-> busybox", "bin/busybox": program(62, "")}, "/bin/sh", "", ConsoleLogin},
		{"OpenRC's agetty", with(plain, "etc/runlevels/default/agetty.ttyS0", "x"), "", "", ConsoleLogin},

		{"input from a terminal", with(sd, "etc/systemd/system/a.target.wants/own.service", "x", "etc/systemd/system/own.service", "[Service]\nExecStart=/bin/own\nStandardInput=tty-force\n"), "", systemdLine, ConsoleLogin},
		{"a terminal's path, in a drop-in", with(sd, "etc/systemd/system/a.target.wants/own.service", "x", "usr/lib/systemd/system/own.service", "[Service]\nExecStart=/bin/own\n", "etc/systemd/system/own.service.d/x.conf", "[Service]\nTTYPath=/dev/hvc0\n"), "", systemdLine, ConsoleLogin},
		{"input from a terminal, pulled in by a unit", with(sd, "etc/systemd/system/a.timer", "[Timer]\nUnit=own.service\n", "etc/systemd/system/own.service", "[Service]\nStandardInput=tty\n"), "", systemdLine, ConsoleLogin},
		{"input from a terminal, that nothing pulls in", with(sd, "etc/systemd/system/own.service", "[Service]\nStandardInput=tty\n"), "", systemdLine, ""},
		{"output on a terminal", with(sd, "etc/systemd/system/a.target.wants/own.service", "x", "etc/systemd/system/own.service", "[Service]\nStandardOutput=tty\nStandardInput=null\n"), "", systemdLine, ""},
		{"crash shell", with(sd, "etc/systemd/system.conf.d/x.conf", "[Manager]\nCrashShell=yes\n"), "", systemdLine, ConsoleLogin},
		{"crash shell, off", with(sd, "etc/systemd/system.conf", "[Manager]\n#CrashShell=yes\nCrashShell=no\n"), "", systemdLine, ""},
		{"crash shell on the line", sd, "", systemdLine + " systemd.crash_shell", ConsoleLogin},
		{"busybox with a shell", busybox, "/bin/busybox", "console=ttyS0 -- sh", ConsoleLogin},
		{"busybox with a shell, before the dashes", busybox, "/bin/busybox", "console=ttyS0 quiet sh", ConsoleLogin},
		{"busybox with a script", busybox, "/bin/busybox", "-- sh /start", ""},
		{"busybox as its init", busybox, "/bin/busybox", "-- init", ConsoleLogin},
		{"busybox with login", busybox, "/bin/busybox", "-- login", ConsoleLogin},
		{"a supervisor with a shell", map[string]string{"tini": program(62, "")}, "/tini", "-- -- /bin/bash -l", ConsoleLogin},
		{"a supervisor with a command", map[string]string{"tini": program(62, "")}, "/tini", "-- -- /bin/sh -c serve", ""},
		{"a program with login as an argument", map[string]string{"app": program(62, "")}, "/app", "-- login 1", ""},
		{"sysvinit, single", plain, "", "console=ttyS0 single", ConsoleLogin},

		{"vsock", with(sd, "etc/systemd/system/sockets.target.wants/own.socket", "x", "etc/systemd/system/own.socket", "[Socket]\nListenStream=vsock::22\n"), "", systemdLine, "host-socket"},
		{"a socket", with(sd, "etc/systemd/system/sockets.target.wants/own.socket", "x", "etc/systemd/system/own.socket", "[Socket]\nListenStream=22\n"), "", systemdLine, ""},
		{"sshd for the host", with(sd, "lib/systemd/system-generators/systemd-ssh-generator", "x"), "", systemdLine, "host-socket"},
		{"sshd for the host, off", with(sd, "lib/systemd/system-generators/systemd-ssh-generator", "x"), "", systemdLine + " systemd.ssh_auto=no", ""},
		{"udev starts a unit", with(sd, "lib/udev/rules.d/60-x.rules", "SUBSYSTEM==\"virtio-ports\", TAG+=\"systemd\", ENV{SYSTEMD_WANTS}=\"own@%k.service\"\n", "etc/systemd/system/own@.service", "x"), "", systemdLine, "host-device"},
		{"udev starts a unit, on two lines", with(sd, "lib/udev/rules.d/60-x.rules", "SUBSYSTEM==\"block\", \\\n  ENV{SYSTEMD_WANTS}+=\"own.service\"\n", "etc/systemd/system/own.service", "x"), "", systemdLine, "host-device"},
		{"udev runs systemctl", with(sd, "etc/udev/rules.d/60-x.rules", "ACTION==\"add\", RUN+=\"/bin/systemctl start own\"\n"), "", systemdLine, "host-device"},
		{"udev starts a masked unit", with(sd, "lib/udev/rules.d/60-x.rules", "ENV{SYSTEMD_WANTS}=\"own.service\"\n", "lib/systemd/system/own.service", "x", "etc/systemd/system/own.service", "-> /dev/null"), "", systemdLine, ""},
		{"udev's rules, masked", with(sd, "lib/udev/rules.d/60-x.rules", "ENV{SYSTEMD_WANTS}=\"own.service\"\n", "lib/systemd/system/own.service", "x", "etc/udev/rules.d/60-x.rules", "-> /dev/null"), "", systemdLine, ""},
		{"systemd's own rules", with(sd, "lib/udev/rules.d/99-systemd.rules", "ENV{SYSTEMD_WANTS}+=\"sound.target systemd-rfkill.socket\"\n", "lib/systemd/system/systemd-rfkill.socket", "x"), "", systemdLine, ""},

		{"lxd-agent", with(sd, "lib/systemd/system/lxd-agent.service", "x"), "", systemdLine, "lxd-agent"},
		{"incus-agent", with(sd, "lib/systemd/system/incus-agent.service", "x"), "", systemdLine, "incus-agent"},
		{"kata-agent", with(sd, "lib/systemd/system/kata-agent.service", "x"), "", systemdLine, "kata-agent"},
		{"oracle-cloud-agent", with(sd, "etc/systemd/system/snap.oracle-cloud-agent.oracle-cloud-agent.service", "x"), "", systemdLine, "oracle-cloud-agent"},
		{"droplet-agent", with(sd, "etc/systemd/system/droplet-agent.service", "x"), "", systemdLine, "droplet-agent"},
		{"nm-cloud-setup", with(sd, "lib/systemd/system/nm-cloud-setup.timer", "x"), "", systemdLine, "nm-cloud-setup"},

		{"cloud-init", with(sd, "lib/systemd/system/cloud-init.service", "x"), "", systemdLine, "cloud-init"},
		{"cloud-init's generator", with(sd, "lib/systemd/system-generators/cloud-init-generator", "x"), "", systemdLine, "cloud-init"},
		{"cloud-init, off", with(sd, "lib/systemd/system/cloud-init.service", "x", "etc/cloud/cloud-init.disabled", ""), "", systemdLine, ""},
		{"cloud-init, not off", with(plain, "etc/init.d/cloud-init", "x", "etc/cloud/cloud-init.disabled", ""), "", "", "cloud-init"},
		{"cloud-init, its program alone", with(sd, "usr/bin/cloud-init", "x"), "", systemdLine, ""},
		{"ignition", with(sd, "usr/lib/systemd/system/ignition-fetch.service", "x"), "", systemdLine, "ignition"},
		{"guest agent", with(sd, "lib/systemd/system/qemu-guest-agent.service", "x"), "", systemdLine, "qemu-guest-agent"},
		{"guest agent, masked", with(sd, "lib/systemd/system/qemu-guest-agent.service", "x", "etc/init.d/qemu-guest-agent", "x", "etc/systemd/system/qemu-guest-agent.service", "-> /dev/null"), "", systemdLine, ""},
		{"guest agent's script", with(plain, "etc/init.d/qemu-guest-agent", "x"), "", "", "qemu-guest-agent"},
		{"waagent", with(sd, "lib/systemd/system/walinuxagent.service", "x"), "", systemdLine, "waagent"},
		{"google", with(sd, "usr/lib/systemd/system/google-guest-agent.service", "x"), "", systemdLine, "google-guest-agent"},

		{"fstab by label", with(plain, "etc/fstab", "LABEL=data /data ext4 defaults 0 0\n"), "", "", "host-disk"},
		{"fstab by path, swap", with(plain, "etc/fstab", "/dev/vdb none swap sw 0 0\n"), "", "", "host-disk"},
		{"fstab, switched off", with(sd, "etc/fstab", "UUID=1 /boot/efi vfat defaults 0 0\n"), "", systemdLine + " fstab=no", ""},
		{"fstab, on again", with(sd, "etc/fstab", "UUID=1 /boot/efi vfat defaults 0 0\n"), "", systemdLine + " fstab=no fstab=yes", "host-disk"},
		{"fstab, on again by the bare word", with(sd, "etc/fstab", "UUID=1 /boot/efi vfat defaults 0 0\n"), "", systemdLine + " fstab=no fstab", "host-disk"},
		{"fstab, switched off for another init", with(plain, "etc/fstab", "UUID=1 /boot/efi vfat defaults 0 0\n"), "", "fstab=no", "host-disk"},
		{"fstab of virtiofs", with(plain, "etc/fstab", "tag /mnt virtiofs defaults 0 0\n"), "", "", "host-disk"},
		{"fstab, harmless", with(plain, "etc/fstab", "# UUID=1 / ext4\ntmpfs /tmp tmpfs\nproc /proc proc\n/dev/sr0 /media iso9660 user,noauto 0 0\n/swapfile none swap sw\n"), "", "", ""},
		{"crypttab", with(plain, "etc/crypttab", "data UUID=1 none luks\n", "etc/fstab", "/dev/mapper/data /d ext4\n"), "", "", "host-disk"},
		{"crypttab of a file", with(plain, "etc/crypttab", "data /var/d.img none luks\n", "etc/fstab", "/dev/mapper/data /d ext4\n"), "", "", ""},
		{"a volume group", with(plain, "etc/fstab", "/dev/mapper/vg-data /d ext4\n"), "", "", "host-disk"},
		{"mount unit", with(sd, "etc/systemd/system/data.mount", "[Mount]\nWhat=/dev/disk/by-label/data\n", "etc/systemd/system/a.target.wants/data.mount", "x"), "", systemdLine, "host-disk"},
		{"mount unit of 9p, pulled in by a unit", with(sd, "etc/systemd/system/data.mount", "[Mount]\nWhat=tag\nType=9p\n", "etc/systemd/system/own.service", "[Unit]\nRequires=data.mount\n"), "", systemdLine, "host-disk"},
		{"mount unit of virtiofs", with(sd, "etc/systemd/system/data.mount", "[Mount]\nWhat=tag\nType=virtiofs\n", "etc/systemd/system/a.target.wants/data.mount", "x"), "", systemdLine, "host-disk"},
		{"a mount on the line", sd, "", systemdLine + " systemd.mount-extra=tag:/mnt:virtiofs", "host-disk"},
		{"mount unit of tmpfs", with(sd, "etc/systemd/system/data.mount", "[Mount]\nWhat=tmpfs\n", "etc/systemd/system/a.target.wants/data.mount", "x"), "", systemdLine, ""},

		{"machine-id", with(plain, "etc/machine-id", strings.Repeat("a", 32)+"\n", "var/lib/dbus/machine-id", "-> /etc/machine-id"), "", "", "machine-id"},
		{"no machine-id", with(plain, "etc/machine-id", "uninitialized\n", "var/lib/dbus/machine-id", ""), "", "", ""},
		{"random seed", with(plain, "var/lib/systemd/random-seed", "xx"), "", "", "random-seed"},
		{"no random seed", with(plain, "var/lib/systemd/random-seed", ""), "", "", ""},
		{"host key", with(plain, "etc/ssh/ssh_host_ed25519_key", "x"), "", "", "ssh-host-key"},
		{"half a host key", with(plain, "etc/ssh/ssh_host_ed25519_key.pub", "x", "etc/ssh/ssh_host_rsa_key", ""), "", "", ""},
	} {
		init := tc.init
		if init == "" {
			init = "/sbin/init"
		}
		all, _, err := Check(shown(t, tree(tc.files)), init, tc.line)
		if got := strings.Join(names(all), " "); err != nil || got != tc.want {
			t.Errorf("%s: Check = %+v, %v; want %q", tc.name, all, err, tc.want)
		}
		for _, f := range all {
			if f.Reason == "" || f.Path == "" {
				t.Errorf("%s: %+v says nothing", tc.name, f)
			}
		}
	}
}

func TestCheckBounds(t *testing.T) {
	big := tree(map[string]string{"sbin/init": program(62, ""), "etc/passwd": strings.Repeat("x", maxText+1)})
	if _, _, err := Check(shown(t, big), "/sbin/init", ""); !errors.Is(err, errTooLarge) {
		t.Errorf("a large passwd: %v; want errTooLarge", err)
	}
	many := tree(map[string]string{"sbin/init": program(62, ""), "etc/shadow": strings.Repeat("a\x1b::\n", 1000)})
	all, _, err := Check(shown(t, many), "/sbin/init", "")
	if err != nil || len(all) != maxPerKind+1 || strings.Contains(all[0].Path, "\x1b") {
		t.Errorf("many accounts: %d findings, %v: %+v", len(all), err, all)
	}
}
