package main_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/policy"
)

// credential is the entry that a unit gets, and credentialWord names it.
var credential = []byte("the password of a database: 5be0aa17c94d3f26")

const credentialWord = "cocoroot.credential=db-password=11111111-2222-3333-4444-555555555555"

// unitFiles are a unit that gets a credential, and one that looks around afterwards and
// ends the guest. They need nothing else of systemd's.
var unitFiles = map[string]string{
	"etc/systemd/system/get.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nLoadCredential=db-password\nExecStart=/bin/sh /get\n",
	"get": `echo "boot-test: got $(sha256sum <$CREDENTIALS_DIRECTORY/db-password) as $CREDENTIALS_DIRECTORY" >/dev/console
`,
	"etc/systemd/system/look.service": "[Unit]\nDefaultDependencies=no\nWants=get.service\nAfter=get.service\n[Service]\nType=oneshot\nExecStart=/bin/sh /look\n",
	"look": `exec >/dev/console
mkdir -p /run/credentials/@system
cd /run/credentials/@system
echo "boot-test: $(systemctl --version | head -n 1)"
echo "boot-test: mount $(grep -F " $PWD " /proc/mounts)"
echo "boot-test: files $(stat -c '%n %a %u' . * | tr '\n' ' ')"
echo "boot-test: the host says $(grep -ac ` + planted + ` /sys/firmware/dmi/entries/11-0/raw), planted $(cat * | grep -c ` + planted + `)"
echo "boot-test: environment $(tr '\0' ' ' </proc/1/environ)"
echo "boot-test: kept $(ls /run/cocoroot/secrets)"
systemctl poweroff
`,
}

// writeUnits writes them below a folder.
func writeUnits(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "etc/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range unitFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// systemd252 is a root of Debian 12.
func systemd252(t *testing.T, dir string) string {
	t.Helper()
	root, units := filepath.Join(dir, "root.tar"), filepath.Join(dir, "units")
	writeUnits(t, units)
	oracle.Run(t, "cp", oracle.Fixture(t, "debian12.tar"), root)
	oracle.Run(t, "tar", append([]string{"-rf", root, "--owner=0", "--group=0", "-C", units}, slices.Collect(maps.Keys(unitFiles))...)...)
	return root
}

// systemd262 is a root with systemd's newest release, and busybox.
func systemd262(t *testing.T, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "root")
	for _, from := range []string{oracle.Fixture(t, "systemd"), oracle.Fixture(t, "demo-root/bin")} {
		to := root
		if filepath.Base(from) == "bin" {
			to = filepath.Join(root, "usr/bin")
		}
		oracle.Run(t, "mkdir", "-p", to)
		oracle.Run(t, "cp", "-an", from+"/.", to)
	}
	const units = "usr/lib/systemd/system/systemd-"
	for _, name := range []string{"usr/share", "etc/systemd/system", units + "storagetm.service", units + "sysinstall.service"} { // the last two read the console
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	writeUnits(t, root)
	return root
}

// A unit gets what the owner has sent for it, and PID 1 nothing that the host has put into
// the machine's tables, which this firmware and this kernel pass on. That it has a folder of
// credentials is enough, even if it is told to import more; and so, without one, is the line
// as it is sealed. (Systemd 252 has no guard of its own against the host.)
func TestCredentials(t *testing.T) {
	t.Parallel()
	const look, safe = " systemd.unit=look.service", "the host says 1, planted 0\n"
	for name, root := range some(t, map[string]func(*testing.T, string) string{"systemd 252": systemd252, "systemd 262": systemd262}, "systemd 252") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			image := seal(t, dir, root(t, dir), "--init", "/lib/systemd/systemd", "--compression", "1", "--append", "loglevel=7 no_timer_check")
			given := image.meets(t, look+" systemd.import_credentials=yes "+credentialWord)
			for _, want := range []string{
				name + " (", "mount cocoroot /run/credentials/@system ramfs rw,nosuid,nodev,noexec", "files . 700 0 db-password 400 0 \n", safe,
				fmt.Sprintf("got %x", sha256.Sum256(credential)), "as /run/credentials/get.service\n", "CREDENTIALS_DIRECTORY=/run/credentials/@system ", "kept \n",
			} {
				if !strings.Contains(given, want) {
					t.Errorf("the console lacks %q", want)
				}
			}
			if !strings.Contains(image.meets(t, look), safe) {
				t.Error("without credentials of the owner's, the console lacks the same")
			}
		})
	}
}

// meets boots Debian's firmware and kernel, with strings of the host's in the tables of
// the machine, from which the image's systemd has to end the guest, and returns
// the console. The owner releases a credential with the disk key.
func (s sealedImage) meets(t *testing.T, more string) string {
	t.Helper()
	g := s.boots(t)
	kernel := oracle.Fixture(t, "debian13-kernel")
	g.firmware, g.kernel, g.fakeTSM = stock(t), filepath.Join(kernel, "bzImage"), filepath.Join(kernel, "fake_tsm.ko")
	g.initrd, _ = withModules(t, kernel, "--channel", "serial")
	g.cmdline += more
	g.extra = hostStrings(planted)
	e := g.asks(t, nil, newAnswering(t, entry(t, policy.DefaultKey, s.key), entry(t, otherGUID, credential)), "serial:ttyS2").run(t, 2*bootLimit)
	if e.err != nil || e.Fatal != nil || e.Panic != "" || e.Reason != "guest-shutdown" {
		t.Fatalf("outcome = %+v, %v; want a power-off of the guest's own", e.Outcome, e.err)
	}
	return strings.ReplaceAll(e.console, "\r", "")
}
