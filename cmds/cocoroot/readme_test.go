package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"cocoroot/initramfs/oracle"
)

// The README's commands for an own root, and those of the tool's README that do it by
// hand, as they stand there, in a new folder, as an ordinary user, twice: the guest
// runs, and what was only for it is gone.
func TestReadme(t *testing.T) {
	t.Parallel()
	repository := oracle.Repository(t)
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Run your own\n")
	section, _, _ = strings.Cut(section, "\n## ")
	commands := regexp.MustCompile(`(?m)^    \$ (build/cocoroot .*)$`).FindAllStringSubmatch(section, -1)
	if len(commands) != 4 {
		t.Fatalf("the README has %d commands; want run, create, launch and verify: %q", len(commands), commands)
	}
	_, byHand, _ := strings.Cut(readText(t, filepath.Join(repository, "cmds/cocoroot/README.md")), "\n## By hand\n")
	byHand, _, _ = strings.Cut(byHand, "\n## ")
	commands = append(commands, []string{byHand, byHand})

	dir, err := os.MkdirTemp("", "readme")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"build", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cocoroot", "init", "run", "modules", "OVMF.amdsev.fd", "bzImage", "initrd.img"} {
		oracle.Run(t, "cp", "-r", oracle.Artifact(t, name), filepath.Join(dir, "build", name))
	}
	oracle.Run(t, "ln", "-s", "build/OVMF.amdsev.fd", "build/bzImage", dir)
	oracle.Run(t, "tar", "-C", oracle.Artifact(t, "demo-root")+"/.", "--owner=0", "--group=0", "-cf", filepath.Join(dir, "rootfs.tar"), ".")
	var user *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		oracle.Run(t, "chown", "-R", "65534:65534", dir)
		user = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	for round := range 2 { // whoever tries something does it twice
		for _, command := range commands {
			cmd := exec.Command("sh", "-ec", command[1])
			cmd.Dir, cmd.SysProcAttr, cmd.Env = dir, user, append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"), "PATH="+filepath.Join(dir, "build")+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			fails, want := false, "demo: running from the encrypted root\n"
			switch {
			case command[1] == byHand && round > 0:
				fails, want = true, "cocoroot: error: cannot write initrd.img: file already exists\ncocoroot: hint: --force replaces it\n"
			case strings.Contains(command[1], " create ") && round > 0:
				fails, want = true, "cocoroot: error: cannot make vm: it is there already\ncocoroot: hint: --force replaces the guest, and keeps what was there\n"
			case strings.Contains(command[1], " create "):
				_, want, _ = strings.Cut(section, command[0]+"\n")
				want, _, _ = strings.Cut(want, "    $ ")
				want = strings.ReplaceAll(want[len("    "):], "\n    ", "\n")
			case strings.Contains(command[1], " verify "):
				want = "the key opens it"
			}
			if (err != nil) != fails || !strings.Contains(string(out), want) {
				t.Fatalf("%s, time %d: %v, it prints\n%s; want %q", command[1], round+1, err, out, want)
			}
		}
	}
	if left := names(t, filepath.Join(dir, "tmp")); left != "" {
		t.Errorf("run leaves %s", left)
	}
	if got := names(t, dir); got != "OVMF.amdsev.fd build bzImage image image.cmdline image.key image.manifest.json initrd.img rootfs.tar tmp vm" {
		t.Errorf("the folder has %s", got)
	}
}
