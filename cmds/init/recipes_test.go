package main_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
)

// hostKeyGUID is the entry that templates/images/debian-ssh takes its key from.
var hostKeyGUID = efi.MustParse("d75eeda3-19a3-4284-bb62-3088bde13633")

// appliance is a program that is all of an image.
const appliance = `package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	root, _ := os.ReadDir("/")
	fmt.Println("` + ran + `")
	fmt.Println("boot-test: pid", os.Getpid(), "arguments", os.Args[1:], "of", len(root), "in the root")
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) // as the first process
}
`

// buildAppliance builds the program and, by the recipe, its root.
func buildAppliance(t *testing.T) (program, root string) {
	t.Helper()
	dir := t.TempDir()
	program, root = filepath.Join(dir, "appliance"), filepath.Join(dir, "root.tar")
	write(t, filepath.Join(dir, "main.go"), []byte(appliance))
	build := exec.Command(oracle.Tool(t, "go"), "build", "-trimpath", "-ldflags=-s -w", "-o", program, filepath.Join(dir, "main.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	oracle.Run(t, filepath.Join(oracle.Repository(t), "templates/images/appliance/build"), program, root)
	return program, root
}

func TestAppliance(t *testing.T) {
	t.Parallel()
	_, root := buildAppliance(t)
	s := seal(t, t.TempDir(), root, "--append", "-- serve")
	if e := s.boots(t).runs(t); !strings.Contains(e.console, "boot-test: pid 1 arguments [serve] of 6 in the root") {
		t.Error("the appliance did not find itself as its root's first process")
	}
}

// TestFromOCI does what the README says one does with a container image.
func TestFromOCI(t *testing.T) {
	t.Parallel()
	program, _ := buildAppliance(t)
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer.tar")
	oracle.Run(t, "tar", "-C", filepath.Dir(program), "--owner=0", "--group=0", "-cf", layer, "appliance")
	oracle.Layout(t, filepath.Join(dir, "app"), map[string]any{"Entrypoint": []string{"/appliance"}, "Cmd": []string{"serve"}, "ExposedPorts": map[string]any{"8099/tcp": struct{}{}}}, layer)

	_, section, _ := strings.Cut(string(read(t, filepath.Join(oracle.Repository(t), "templates/images/README.md"))), "\n## From a container image\n")
	command := regexp.MustCompile(`(?m)^    \$ build/cocoroot (.*)$`).FindStringSubmatch(section)
	if command == nil {
		t.Fatal("the README has no command")
	}
	cmd := exec.Command(oracle.Artifact(t, "cocoroot"), strings.Fields(command[1])...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command[1], err, out)
	}
	if said := string(out); !strings.Contains(said, "arguments [serve] of 8 in the root") || !strings.Contains(said, "cocoroot: eth0 has the address 10.0.2.15") || strings.Contains(said, "boot-test: pid 1 ") {
		t.Errorf("the image's program did not run as it is meant to:\n%s", out)
	}
}

// TestDebianSSH: who injected the host key, and finds it on the network, talks
// to the guest that was measured.
func TestDebianSSH(t *testing.T) {
	t.Parallel()
	ssh, keygen := oracle.Tool(t, "ssh"), oracle.Tool(t, "ssh-keygen")
	dir := t.TempDir()
	hostKey, user := filepath.Join(dir, "host_key"), filepath.Join(dir, "user")
	for _, path := range []string{hostKey, filepath.Join(dir, "other")} {
		oracle.Run(t, keygen, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path)
	}
	if err := os.WriteFile(user, read(t, oracle.Fixture(t, "debian-ssh/user")), 0o600); err != nil {
		t.Fatal(err)
	}
	s := seal(t, dir, oracle.Fixture(t, "debian-ssh/root.tar"))

	if soaking() {
		t.Run("without its key", func(t *testing.T) {
			g := s.boots(t)
			g.memory = 2048
			if e := g.run(t, 2*bootLimit); e.err != nil || e.Reason != "guest-shutdown" || strings.Contains(e.console, "Started ssh.service") {
				t.Errorf("outcome = %+v, %v; want a guest that powers off and has no sshd", e.Outcome, e.err)
			}
		})
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	connect := func(key, command string) (string, error) {
		known := filepath.Join(dir, "known."+filepath.Base(key))
		line := fmt.Sprintf("[127.0.0.1]:%d %s", port, read(t, key+".pub"))
		if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(ssh, "-F", "none", "-p", strconv.Itoa(port), "-i", user, "-o", "BatchMode=yes", "-o", "ConnectTimeout=20",
			"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile="+known, "root@127.0.0.1", command).CombinedOutput()
		return string(out), err
	}
	g := s.boots(t)
	g.memory = 2048
	g.entries = append(g.entries, entry(t, hostKeyGUID, read(t, hostKey)))
	g.extra = []string{
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", port), "-device", "virtio-net-pci,netdev=net,romfile=",
	}
	said := make(chan string, 1)
	go func() {
		out, err := "", error(nil)
		for begin := time.Now(); time.Since(begin) < 2*bootLimit; time.Sleep(time.Second) {
			if out, err = connect(hostKey, "echo entries $(ls /sys/kernel/security/secrets/coco | wc -l); stat -c 'key %a' /run/host-key/key; systemctl is-system-running"); err == nil {
				break
			}
		}
		other, errOther := connect(filepath.Join(dir, "other"), "echo reached")
		if errOther == nil || !strings.Contains(other, "Host key verification failed") {
			out += "\nanother host key was taken: " + other
		}
		connect(hostKey, "systemctl poweroff")
		said <- out
	}()
	e := g.run(t, 4*bootLimit)
	out := <-said
	if e.err != nil || e.Reason != "guest-shutdown" {
		t.Errorf("outcome = %+v, %v; want a power-off", e.Outcome, e.err)
	}
	for _, want := range []string{"entries 0\n", "key 600\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest said %q; want %q in it", out, want)
		}
	}
	if strings.Contains(out, "another host key") {
		t.Error(out)
	}
	if secret := bytes.Split(read(t, hostKey), []byte("\n"))[2]; bytes.Contains(e.page, secret[:16]) {
		t.Error("the host key is still in the page that it was injected into")
	}
}

// TestStateFlow runs the README's commands as they stand: what a database has noted
// is there after a restart and in another image. Only the recipe is a fixture's,
// which comes from the same script.
func TestStateFlow(t *testing.T) {
	t.Parallel()
	dir, repository := t.TempDir(), oracle.Repository(t)
	_, section, _ := strings.Cut(string(read(t, filepath.Join(repository, "README.md"))), "\n## Data that stays\n")
	section, _, found := strings.Cut(section, "\n## ")
	if !found {
		t.Fatal("the README has no such section")
	}
	for _, name := range []string{"cocoroot", "OVMF.amdsev.fd", "bzImage", "initrd.img"} {
		oracle.Artifact(t, name)
	}
	if err := os.Symlink(filepath.Join(repository, "build"), filepath.Join(dir, "build")); err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(dir, "templates/images/sqlite")
	if err := os.MkdirAll(recipe, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(recipe, "build"), []byte("#!/bin/sh\ncp '"+oracle.Fixture(t, "sqlite")+"'/\"$1.tar\" \"$2\"\n"))
	var script, want []string
	for line := range strings.Lines(section) {
		text, code := strings.CutPrefix(line, "    ")
		command, isCommand := strings.CutPrefix(text, "$ ")
		switch continues := len(script) > 0 && strings.HasSuffix(script[len(script)-1], "\\\n"); {
		case isCommand || code && continues:
			script = append(script, command)
		case code:
			want = append(want, text)
		}
	}
	run := func(script string) string {
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return strings.ReplaceAll(string(out), "\r", "")
	}
	out := run(strings.Join(script, ""))
	rest := out
	for _, line := range want {
		if _, rest, found = strings.Cut(rest, "\n"+line); !found {
			t.Errorf("the README shows %q, and its commands print\n%s", line, out)
		}
	}
	if len(want) < 2 {
		t.Errorf("the README shows only %q", want)
	}
	// Without a word of its owner a disk stays as it is, and an old one is refused.
	boot := strings.Join(script[slices.IndexFunc(script, func(s string) bool { return strings.HasPrefix(s, "boot=") }):][:2], "")
	boot += "$boot --cmdline-file two.cmdline --disk two --secret disk=two.key"
	if out := run(boot + " --state-floor data=4000000000 2>&1 && exit 1 || true"); !strings.Contains(out, "FATAL STATE-ROLLBACK") || strings.Contains(out, "app: ") {
		t.Errorf("with a floor above the disk:\n%s", out)
	}
	if out := run(boot); !strings.Contains(out, "app: started by the images 1 2 2\n") {
		t.Errorf("at last:\n%s", out)
	}
}

// TestStateGeneration runs the owner's tool in the guest: what it says is at least as
// new as the disk was before, and grows with what is written.
func TestStateGeneration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := testRoot(t, dir, `
say() { echo "boot-test: $1 $(cocoroot state generation $2 2>&1 | tr '\n' ' ')"; }
say first /data
say again /data
echo x >/data/file
say written /data
say all
say json --json
say root /
umount /data`)
	write(t, filepath.Join(root, "bin/cocoroot"), read(t, oracle.Artifact(t, "cocoroot")))
	if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	write(t, disk, nil)
	if err := os.Truncate(disk, 512<<20); err != nil {
		t.Fatal(err)
	}
	s := seal(t, dir, root, "--state", "db,/data,serial:db")
	g := s.boots(t)
	g.entries = append(g.entries, entry(t, s.policy.StateKey, bytes.Repeat([]byte("k"), 64)), entry(t, policy.Orders, []byte("create db\n")))
	g.extra = []string{"-drive", "if=none,id=db,format=raw,file=" + disk, "-device", "virtio-blk-pci,drive=db,serial=db"}
	console := strings.ReplaceAll(g.runs(t).console, "\r", "")
	said := func(what string) string {
		_, text, _ := strings.Cut(console, "boot-test: "+what+" ")
		text, _, _ = strings.Cut(text, "\n")
		return strings.TrimSpace(text)
	}
	number := func(what string) int {
		n, err := strconv.Atoi(said(what))
		if err != nil {
			t.Errorf("%s: %q is not a generation", what, said(what))
		}
		return n
	}
	first, again, written := number("first"), number("again"), number("written")
	if first < 1 || again != first || written != again+1 {
		t.Errorf("generations %d, %d with nothing written, %d with a file", first, again, written)
	}
	if all := said("all"); all != fmt.Sprintf("db=%d", written) {
		t.Errorf("state generation = %q; want db=%d", all, written)
	}
	if json := strings.Join(strings.Fields(said("json")), ""); json != fmt.Sprintf(`[{"name":"db","path":"/data","generation":%d}]`, written) {
		t.Errorf("state generation --json = %s", json)
	}
	if text := said("root"); !strings.Contains(text, "is not on a state disk") {
		t.Errorf("state generation / = %q", text)
	}
}
