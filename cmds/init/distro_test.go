package main_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/modules"
)

// stateUnit runs stateScript once the boot is over.
const stateUnit = `[Unit]
Description=Report the state of the system
After=multi-user.target

[Service]
LoadCredential=db-password
SetCredential=db-password:none
ExecStart=/usr/local/sbin/boot-test

[Install]
WantedBy=multi-user.target
`

// stateScript says on the console how systemd and udev find themselves, and
// ends the guest. It opens the console for every line, for the getty there
// hangs it up when it starts.
const stateScript = `#!/bin/sh
say() { echo "boot-test: $*" >/dev/console; }
say "state $(systemctl is-system-running --wait)"
say "target $(systemctl is-active multi-user.target)"
systemctl --failed --no-legend --plain | while read -r unit; do say "failed $unit"; done
for name in verity root; do
	say "$name device $(systemctl is-active dev-mapper-cocoroot\\x2d$name.device)"
	say "$name link $(readlink -f /dev/mapper/cocoroot-$name)"
	say "$name udev $(udevadm info --query=property --property=DM_NAME,ID_FS_TYPE,SYSTEMD_READY --value /dev/mapper/cocoroot-$name | tr '\n' ' ')"
done
say "root status $(cryptsetup status cocoroot-root | head -n 2 | tr -s '\n ' ' ')"
say "credentials $(find /run/credentials /run/planted -type f 2>/dev/null | sort | tr '\n' ' ')"
say "credential $(cat "$CREDENTIALS_DIRECTORY/db-password")"
say "root is $(findmnt --noheadings --output FSTYPE /)"
say "mounts $(cut -d ' ' -f 2,3 /proc/mounts | grep -cE '^/(newroot|lower|upper|init)|rootfs') of ours"
say "status $(setpriv --reuid=65534 --clear-groups grep -c '"image"' /run/cocoroot/status.json)"
say "arguments $(tr '\0' ' ' </proc/1/cmdline)"
say "environment $(tr '\0' ' ' </proc/1/environ)"
for folder in / /var/lib/kept; do
	say "findmnt $(findmnt --noheadings --raw --output TARGET,SOURCE,FSTYPE $folder)"
	say "df $folder $(df --output=target,size --block-size=1M $folder | tail -n 1 | tr -s ' ')"
done
say "state mounts $(grep -c /var/lib/kept /proc/self/mountinfo)"
say "state unit $(systemctl show --property=ActiveState,Result --value var-lib-kept.mount | tr '\n' ' ')"
if mountpoint --quiet /var/lib/kept; then
	dd if=/dev/zero of=/var/lib/kept/file bs=64k count=9 conv=fsync status=none && say "synced"
fi
case $(cat /proc/cmdline) in
*ends=reboot*) systemctl reboot ;;
*) systemctl poweroff ;;
esac
`

// busyRoot is what systemd-shutdown says about the devices that the root lies on,
// image and scratch disk, in a guest of any kind: it tries to take them away before it
// ends, and nothing can, for its own program is on them. Of loop devices, it first tries
// those of the state disk too, in vain while the mapped devices are there.
var busyRoot = regexp.MustCompile(`Could not detach DM /dev/dm-[0-4]: Device or resource busy` +
	`|Could not detach loopback /dev/loop[0-3]: Device or resource busy` +
	`|Failed to finalize loop devices, DM devices, ignoring\.`)

// detached is what it says when the state disk is no longer used.
const detached = "Not all loop devices detached, 2 left."

// TestDebian boots a real Debian 12 root with systemd and udev to
// multi-user.target, and ends it; when soaking, in both ways.
func TestDebian(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root.tar")
	addToTar(t, oracle.Fixture(t, "debian12.tar"), root)
	image := seal(t, dir, root, "--append", "loglevel=7 no_timer_check cocoroot.overlay=ephemeral:serial:scratch"+strings.Replace(dbLine, "/data", "/var/lib/kept", 1))
	disk := blankDisk(t, dir, attackedSize)
	t.Run("poweroff", func(t *testing.T) {
		e := bootDebian(t, image, disk, " init=/lib/systemd/systemd greeting=hello "+credentialWord+" -- --default-timeout-stop-sec=80")
		if e.Reason != "guest-shutdown" {
			t.Errorf("the guest ended by %q; want a power-off", e.Reason)
		}
		for _, want := range []string{
			"state running",
			"target active",
			"verity device active", "verity link /dev/dm-0", "verity udev cocoroot-verity crypto_LUKS 1",
			"root device active", "root link /dev/dm-1", "root udev cocoroot-root squashfs 1",
			"root status /dev/mapper/cocoroot-root is active and is in use. type: LUKS2",
			"credentials /run/credentials/@system/db-password /run/credentials/boot-test.service/db-password",
			"credential " + string(credential),
			"root is overlay",
			"findmnt / overlay overlay", "df / / 270", // of the scratch disk
			"findmnt /var/lib/kept /dev/dm-7 btrfs", "df /var/lib/kept /var/lib/kept 265",
			"state mounts 1", "state unit success active", "synced",
			"mounts 0 of ours",
			"status 1",
			"arguments /lib/systemd/systemd --default-timeout-stop-sec=80",
			"environment HOME=/ TERM=linux greeting=hello CREDENTIALS_DIRECTORY=/run/credentials/@system",
		} {
			if !strings.Contains(strings.ReplaceAll(e.console, " \r\n", "\r\n"), "boot-test: "+want+"\r\n") {
				t.Errorf("the console lacks the line %q", want)
			}
		}
	})
	if !soaking() {
		return
	}
	t.Run("reboot", func(t *testing.T) {
		e := bootDebian(t, image, disk, " ends=reboot")
		if e.Reason != "guest-reset" {
			t.Errorf("the guest ended by %q; want a reset", e.Reason)
		}
		if want := "boot-test: credentials /run/credentials/boot-test.service/db-password \r\n"; !strings.Contains(e.console, want) {
			t.Errorf("the console lacks %q", want)
		}
	})
}

// bootDebian boots the image with more on its command line; the guest must
// end by itself, and its systemd without a complaint.
func bootDebian(t *testing.T, image sealedImage, disk, more string) ended {
	t.Helper()
	g := stateGuest(t, image, disk, "create db\n")
	g.cmdline = image.cmdline
	g.disks = append(g.disks, launch.Disk{Path: blankDisk(t, t.TempDir(), 272*mib), Serial: "scratch", Writable: true})
	if strings.Contains(more, credentialWord) { // or else it would stay for the workload
		g.entries = append(g.entries, entry(t, otherGUID, credential))
	}
	g.memory = 2048
	g.cmdline += more
	// systemd takes credentials from what the host writes, where it is let.
	g.extra = hostStrings("f /run/planted 0644 root root - " + planted)
	e := g.run(t, 2*bootLimit)
	if e.err != nil || e.Fatal != nil || e.Panic != "" {
		t.Fatalf("outcome = %+v, %v; want an end of the guest's own", e.Outcome, e.err)
	}
	g.wiped(t, e)
	if o := openState(t, disk); o.super(superLogRoot) != 0 {
		t.Error("the state was not unmounted")
	}
	_, end, ok := strings.Cut(e.console, "systemd-shutdown[1]: ")
	if !ok {
		t.Fatal("systemd-shutdown did not run")
	}
	if !strings.Contains(end, detached) {
		t.Error("the state's devices were not taken away")
	}
	end = busyRoot.ReplaceAllString(end, "")
	for _, bad := range []string{"Failed", "Could not", "rror", "imed out"} {
		if strings.Contains(end, bad) {
			t.Errorf("the end of the console has %q", bad)
		}
	}
	if strings.Contains(e.console, planted) {
		t.Error("the host's text is on the console")
	}
	if strings.Contains(e.console, "FAILED") || strings.Contains(e.console, "boot-test: failed") {
		t.Error("units failed")
	}
	return e
}

// addToTar copies a tar and adds the unit, its link and its script.
func addToTar(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r, w := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	const unit = "/etc/systemd/system/boot-test.service"
	for _, f := range []struct {
		header tar.Header
		text   string
	}{
		{tar.Header{Name: "." + unit, Mode: 0o644}, stateUnit},
		{tar.Header{Name: "./var/lib/kept", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "./usr/local/sbin/boot-test", Mode: 0o755}, stateScript},
		{tar.Header{Name: "./etc/systemd/system/multi-user.target.wants/boot-test.service", Linkname: unit, Typeflag: tar.TypeSymlink, Mode: 0o777}, ""},
	} {
		f.header.Size = int64(len(f.text))
		if err := w.WriteHeader(&f.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestURootCarriesInit boots an archive that u-root's own builder made with
// our init as its -initcmd.
func TestURootCarriesInit(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.initrd = urootInitrd(t)
	g.wiped(t, g.runs(t))
}

// urootInitrd builds an archive with u-root: init, the kernel modules and their
// list.
func urootInitrd(t *testing.T) string {
	t.Helper()
	out, dir := filepath.Join(t.TempDir(), "initramfs.cpio"), t.TempDir()
	args := []string{"tool", "u-root", "-o", out, "-initcmd=/bin/cocoroot-init", "-defaultsh=", "-files=" + oracle.Artifact(t, "init") + ":bin/cocoroot-init"}
	list := ""
	for _, m := range ourModules(t) {
		file := filepath.Join(dir, filepath.Base(m.Entry.Path))
		write(t, file, m.Data)
		args = append(args, "-files="+file+":"+strings.TrimPrefix(m.Entry.Path, "/"))
		if m.Entry.Optional {
			t.Fatalf("%s is optional: the list has it in another form", m.Entry.Path)
		}
		list += m.Entry.Path + "\n"
	}
	write(t, filepath.Join(dir, "modules"), []byte(list))
	args = append(args, "-files="+filepath.Join(dir, "modules")+":"+strings.TrimPrefix(modules.ListPath, "/"))
	// One command of u-root's goes with it; the list of commands cannot be empty.
	args = append(args, "github.com/u-root/u-root/cmds/core/true")
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("u-root: %v\n%s", err, text)
	}
	return out
}
