package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// running is build/cocoroot in a process group of its own, as a terminal has it.
type running struct {
	*exec.Cmd
	dir   string // of its output
	tmp   string // for what must be gone at the end
	ended chan struct{}
}

// printed returns what is on its standard output, said what is on its standard error.
func (r *running) printed(t *testing.T) string { return readText(t, filepath.Join(r.dir, "stdout")) }
func (r *running) said(t *testing.T) string    { return readText(t, filepath.Join(r.dir, "stderr")) }

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// prepare is for a run of the tool, with a folder before those of PATH.
func prepare(t *testing.T, path string, args ...string) *running {
	t.Helper()
	r := &running{Cmd: exec.Command(oracle.Artifact(t, "cocoroot"), args...), dir: t.TempDir(), tmp: t.TempDir(), ended: make(chan struct{})}
	r.Env = append(os.Environ(), "TMPDIR="+r.tmp, "PATH="+path+":"+os.Getenv("PATH"))
	r.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for name, to := range map[string]*io.Writer{"stdout": &r.Stdout, "stderr": &r.Stderr} {
		f, err := os.Create(filepath.Join(r.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		*to = f
	}
	return r
}

// starts starts it.
func (r *running) starts(t *testing.T) *running {
	t.Helper()
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Process.Kill()
		<-r.ended
		if t.Failed() {
			t.Logf("%q\nprinted %s\nand said %s", r.Args, r.printed(t), r.said(t))
		}
	})
	go func() {
		defer close(r.ended)
		r.Wait()
	}()
	return r
}

// until waits for a condition.
func (r *running) until(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-r.ended:
			t.Fatalf("it ended before %s", what)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("no %s within %v", what, limit)
		}
	}
}

// signal is what a terminal sends to all of the group.
func (r *running) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-r.Process.Pid, s); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the end, with an exit code, after which no file is left, and no
// process that works with one.
func (r *running) ends(t *testing.T, limit time.Duration, code int) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(limit):
		t.Fatalf("no end within %v", limit)
	}
	if got := r.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d (%v); want %d", got, r.ProcessState, code)
	}
	if left := names(t, r.tmp); left != "" {
		t.Errorf("it left %s", left)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		if text, err := os.ReadFile(line); err == nil && bytes.Contains(text, []byte(r.tmp)) {
			t.Errorf("it left the process %q", text)
		}
	}
}

// fakeProgram writes a shell script that takes the place of a program.
func fakeProgram(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.Chmod(put(t, filepath.Join(dir, name), "#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
}

// However run ends, before the guest's start and after it, what it made is gone;
// standard output has the guest's words only.
func TestRunEnds(t *testing.T) {
	m := newMakings(t)
	run := slices.Concat([]string{"run", "--simulate", m.root}, m.boots)
	fake := t.TempDir()
	fakeProgram(t, fake, "qemu-system-x86_64", strings.TrimPrefix(silentQEMU, "#!/bin/sh\n"))
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			t.Parallel()
			r := prepare(t, fake, run...).starts(t)
			r.until(t, time.Minute, "the boot", func() bool { return r.printed(t) == "the guest\n" })
			r.signal(t, s)
			r.ends(t, 10*time.Second, fault.Interrupted)
			if r.printed(t) != "the guest\n" {
				t.Error("there is more on standard output than the guest's words")
			}
		})
	}
	t.Run("no reader", func(t *testing.T) {
		t.Parallel()
		reader, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		reader.Close()
		r := prepare(t, fake, run...)
		r.Stdout = out
		r.starts(t)
		out.Close()
		r.ends(t, time.Minute, 128+int(unix.SIGPIPE))
	})
	t.Run("time is up", func(t *testing.T) {
		t.Parallel()
		prepare(t, fake, append(run, "--timeout", "1s")...).starts(t).ends(t, time.Minute, fault.Failed)
	})
	// A terminal's interrupt is the tool's, which ends the program that it waits for.
	t.Run("sealing", func(t *testing.T) {
		t.Parallel()
		tools := t.TempDir()
		group := filepath.Join(tools, "group")
		fakeProgram(t, tools, "mksquashfs", "cut -d ' ' -f 5 /proc/$$/stat >"+group+".new && mv "+group+".new "+group+"\nexec sleep 60\n")
		r := prepare(t, tools, run...).starts(t)
		r.until(t, time.Minute, "mksquashfs", func() bool { return there(group) != "" })
		if strings.TrimSpace(readText(t, group)) == fmt.Sprint(r.Process.Pid) {
			t.Error("mksquashfs is in the terminal's process group")
		}
		r.signal(t, unix.SIGINT)
		r.ends(t, 10*time.Second, fault.Interrupted)
		if r.printed(t) != "" || r.said(t) != "cocoroot: error: interrupted; nothing was written\n" {
			t.Error("it says something else")
		}
	})
	t.Run("reading", func(t *testing.T) {
		t.Parallel()
		silent, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		r := prepare(t, fake, slices.Concat([]string{"run", "--simulate", "-"}, m.boots)...)
		r.Stdin = silent
		r.starts(t)
		r.until(t, time.Minute, "a folder", func() bool { return names(t, r.tmp) != "" })
		time.Sleep(300 * time.Millisecond)
		r.signal(t, unix.SIGTERM)
		r.ends(t, 10*time.Second, fault.Interrupted)
	})
}

// The first interrupt asks the program of a container image to end, in its own time;
// the second ends the guest.
func TestRunSecondInterrupt(t *testing.T) {
	m := newMakings(t)
	fake := t.TempDir()
	fakeProgram(t, fake, "qemu-system-x86_64", strings.TrimPrefix(silentQEMU, "#!/bin/sh\n"))
	r := prepare(t, fake, slices.Concat([]string{"run", "--simulate", aContainer(t, service), "--run", oracle.Artifact(t, "run")}, m.boots)...).starts(t)
	r.until(t, time.Minute, "the boot", func() bool { return r.printed(t) == "the guest\n" })
	r.signal(t, unix.SIGTERM)
	r.until(t, time.Minute, "a word", func() bool {
		return strings.Contains(r.said(t), "asking the program to end; a second interrupt ends the guest")
	})
	time.Sleep(time.Second)
	select {
	case <-r.ended:
		t.Error("it ended at the first interrupt")
	default:
	}
	r.signal(t, unix.SIGINT)
	r.ends(t, 5*time.Second, fault.Interrupted)
	if r.printed(t) != "the guest\n" {
		t.Error("there is more on standard output than the guest's words")
	}
}

// A container image runs, answers at the address that it was given and at the port
// that it exposes, and ends by its own signal at an interrupt, with its exit code.
func TestRunService(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port := freePort(t)
	sites := filepath.Join(dir, "etc/nginx/sites-available")
	if err := os.MkdirAll(sites, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(sites, "default"), fmt.Sprintf("server { listen %d; location /resolv.conf { root /etc; } }\n", port))
	layer := filepath.Join(dir, "layer.tar")
	oracle.Run(t, "tar", "-C", dir, "--owner=0", "--group=0", "-cf", layer, "etc")
	oracle.Layout(t, filepath.Join(dir, "app"), map[string]any{
		"Cmd": []string{"nginx", "-g", "daemon off;"}, "StopSignal": "SIGABRT", "ExposedPorts": map[string]any{fmt.Sprint(port): struct{}{}},
	}, oracle.Fixture(t, "containers/nginx.tar"), layer)
	settings := put(t, filepath.Join(dir, "settings"), "network = \"none\"\nappend = \"no_timer_check\"\n")
	r := prepare(t, "/usr/bin", "run", "--simulate", filepath.Join(dir, "app"), "--publish", "--settings", settings, "--network", "10.0.2.15/24,10.0.2.2,10.0.2.9").starts(t)
	client := http.Client{Timeout: 10 * time.Second}
	r.until(t, 4*time.Minute, "an answer", func() bool {
		answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/resolv.conf", port))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "nameserver 10.0.2.9\n" {
			t.Errorf("the guest's resolv.conf is %q, %v", text, err)
		}
		return true
	})
	r.signal(t, unix.SIGINT)
	r.ends(t, time.Minute, 128+int(unix.SIGABRT))
	for _, ours := range []string{"simulated launch", "asking the program", "cocoroot: error", "has the address"} {
		if strings.Contains(r.printed(t), ours) {
			t.Errorf("standard output has %q", ours)
		}
	}
}

// freePort returns a port at which nobody listens.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A guest's state and its scratch disk need nothing but its folder: what one boot
// writes, the next one reads.
func TestFolderDisks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, vm := filepath.Join(dir, "root"), filepath.Join(dir, "vm")
	if err := os.CopyFS(root, os.DirFS(oracle.Fixture(t, "demo-root"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	fakeProgram(t, filepath.Join(root, "sbin"), "init", "PATH=/bin\necho \"test: the state has $(ls /data), $(cat /data/word)\"\n"+
		"echo of the first boot >/data/word\ndd if=/dev/zero of=/scratch bs=64k count=64\nsync\npoweroff -f\n")
	settings := put(t, filepath.Join(dir, "settings"), "state = [\"data,/data,512M\"]\nscratch = \"512M\"\nappend = \"no_timer_check\"\n")
	tool := oracle.Artifact(t, "cocoroot")
	oracle.Run(t, tool, "create", root, "-o", vm, "--settings", settings)
	oracle.Run(t, tool, "launch", vm, "--simulate", "--dry-run") // which uses up nothing
	for _, want := range []string{"test: the state has , \n", "test: the state has word, of the first boot\n"} {
		if out := oracle.Run(t, tool, "launch", vm, "--simulate", "--timeout", "4m"); !strings.Contains(out, want) {
			t.Errorf("the guest says\n%s; want %q", out, want)
		}
	}
	var fi unix.Stat_t
	if err := unix.Stat(filepath.Join(vm, "host/disks/scratch"), &fi); err != nil || fi.Blocks*512 < 4<<20 {
		t.Errorf("the scratch disk has %d blocks, %v; want what the guest wrote", fi.Blocks, err)
	}
}

// A port that this user cannot have is refused before anything boots.
func TestRunPorts(t *testing.T) {
	m := newMakings(t)
	fake := t.TempDir()
	fakeProgram(t, fake, "qemu-system-x86_64", strings.TrimPrefix(silentQEMU, "#!/bin/sh\n"))
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for forward, want := range map[string]string{
		port + ":80":     "cannot forward this machine's port " + port + ": bind: address already in use\ncocoroot: hint: --forward PORT:80, without --publish, takes another one",
		port + ":53/udp": "the guest did not end within 1s", // another port than TCP's
		"1023:80":        "cannot forward this machine's port 1023: bind: permission denied\ncocoroot: hint: --forward PORT:80, ",
		"65536:80":       "is not two ports",
	} {
		r := prepare(t, fake, slices.Concat([]string{"run", "--simulate", m.root, "--timeout", "1s", "--forward", forward}, m.boots)...)
		if os.Geteuid() == 0 { // as a user, who has no right to low ports
			r.Path, r.Args = oracle.Tool(t, "setpriv"), slices.Concat([]string{"setpriv", "--bounding-set", "-net_bind_service"}, r.Args)
			r.Args[3] = oracle.Artifact(t, "cocoroot")
		}
		r.starts(t)
		<-r.ended
		if said := r.said(t); !strings.Contains(said, want) || names(t, r.tmp) != "" || (r.printed(t) != "") != (forward == port+":53/udp") {
			t.Errorf("--forward %s: it says %q; want %q", forward, said, want)
		}
	}
}
