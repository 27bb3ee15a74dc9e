package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
)

var (
	fileGUID = efi.MustParse("22222222-2222-4222-8222-222222222222")
	envGUID  = efi.MustParse("33333333-3333-4333-8333-333333333333")
)

// containerScript is the program of the image: it says what it finds, and ends by
// the image's stop signal.
const containerScript = `#!/bin/sh
trap 'echo "boot-test: stopped, $(ps | grep -c "[s]leep 1000") children left"; sleep 1001 & exit 7' USR1
echo "boot-test: program $$ of $(id) in $(pwd)"
echo "boot-test: arguments $*"
echo "boot-test: environment $(env | sort | grep -vE '^(SHLVL|_|PWD)=' | tr '\n' ' ')"
echo "boot-test: rights $(grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)|^NoNewPrivs' /proc/self/status | tr -d '\t' | tr '\n' ' ')"
echo "boot-test: input $(readlink /proc/self/fd/0), output $(readlink /proc/self/fd/1 | tr -d '0-9'), terminal $(tty)"
echo "boot-test: written by name" >/dev/stdout
echo "boot-test: mounts $(awk '{print $2 ":" $3}' /proc/mounts | sort | tr '\n' ' ')"
echo "boot-test: host $(hostname) $(cat /etc/hostname) $(grep -c guest /etc/hosts)"
echo "boot-test: run $(ls /run | tr '\n' ' '), status $(grep -c '"image"' /run/cocoroot/status.json)"
echo "boot-test: folders $(stat -c '%n %a %u:%g' /srv /volume /made/volume /tmp /run/service | tr '\n' ' ')"
echo "boot-test: secrets $(stat -c '%n %a %u' /run/cocoroot/secrets/* | tr '\n' ' ') $(cat /run/cocoroot/secrets/password)"
rm /run/cocoroot/secrets/password && echo "boot-test: secret wiped"
echo "boot-test: loopback $(ifconfig lo | grep -c 'inet addr:127.0.0.1')"
echo "boot-test: own files $(cat /cocoroot/run.json 2>&1 | tail -c 18)"
(sleep 1000 &) # an orphan
sh -c '(exit 3) & exec sleep 0.1' # another, which ends
echo "boot-test: zombies $(ps -o stat | grep -c '^Z')"
echo "` + ran + `"
while :; do sleep 0.2; done
`

// TestContainer boots a container image whose configuration says a good deal, and
// stops it.
func TestContainer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.CopyFS(root, os.DirFS(oracle.Fixture(t, "demo-root"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"srv", "volume", "run/service"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"))
	write(t, filepath.Join(root, "etc/group"), []byte("root:x:0:\napp:x:1000:\nextra:x:5000:other,app\n"))
	write(t, filepath.Join(root, "srv/serve"), []byte(containerScript))
	base, layer := filepath.Join(dir, "base.tar"), filepath.Join(dir, "layer.tar")
	oracle.Run(t, "tar", "-C", root, "--owner=0", "--group=0", "-cf", base, ".")
	oracle.Run(t, "tar", "-C", root, "--owner=1000", "--group=1000", "--mode=u=rwx,g=rxs,o=", "-cf", layer, "run/service")
	oracle.Layout(t, filepath.Join(dir, "app"), map[string]any{
		"User": "app", "WorkingDir": "/srv", "Entrypoint": []string{"./serve", "always"}, "Cmd": []string{"by default"},
		"Env": []string{"PATH=/srv:/bin", "GREETING=a b", "TOKEN=of the image's own"}, "StopSignal": "SIGUSR1",
		"Volumes": map[string]any{"/volume": struct{}{}, "/made/volume": struct{}{}}, "ExposedPorts": map[string]any{"80/tcp": struct{}{}},
	}, base, layer)
	s := seal(t, dir, filepath.Join(dir, "app"), "--secret-file", "password="+fileGUID.String(), "--secret-env", "TOKEN="+envGUID.String(),
		"--append", "loglevel=7 no_timer_check", "--", "given", "two words")

	t.Run("without its secrets", func(t *testing.T) {
		g := s.boots(t)
		g.stop = make(chan struct{})
		e := g.run(t, bootLimit)
		if e.err != nil || e.Reason != "guest-shutdown" || e.Exit == nil || *e.Exit != 125 {
			t.Errorf("outcome = %+v, %v; want exit code 125", e.Outcome, e.err)
		}
		if strings.Contains(e.console, ran) || !strings.Contains(e.console, "was not released to this guest") {
			t.Error("the program ran, or nothing says why not")
		}
	})
	g := s.boots(t)
	g.entries = append(g.entries, entry(t, fileGUID, []byte("secret in a file")), entry(t, envGUID, []byte("secret in a variable")), entry(t, otherGUID, []byte("for root only")))
	stop := make(chan struct{})
	g.stop = stop
	ready := g.watch.on(ran)
	go func() {
		<-ready
		close(stop)
	}()
	e := g.runs(t)
	if e.Exit == nil || *e.Exit != 7 {
		t.Errorf("exit code = %v; want 7", e.Exit)
	}
	for _, want := range []string{
		"of uid=1000(app) gid=1000(app) groups=5000(extra) in /srv",
		"arguments always given two words",
		"environment GREETING=a b HOME=/home/app HOSTNAME=guest PATH=/srv:/bin TOKEN=secret in a variable ",
		"rights CapInh:0000000000000000 CapPrm:0000000000000000 CapEff:0000000000000000 CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:0 ",
		"input /dev/null, output pipe:[], terminal not a tty",
		"written by name",
		"mounts /:overlay /dev/mqueue:mqueue /dev/pts:devpts /dev/shm:tmpfs /dev:devtmpfs /proc:proc /run/cocoroot/secrets:ramfs /run/cocoroot:tmpfs",
		"host guest guest 1",
		"run cocoroot service , status 1",
		"folders /srv 755 0:0 /volume 755 0:0 /made/volume 755 0:0 /tmp 755 0:0 /run/service 2750 1000:1000",
		"secrets /run/cocoroot/secrets/" + otherGUID.String() + " 400 0 /run/cocoroot/secrets/password 400 1000  secret in a file",
		"secret wiped",
		"loopback 1",
		"own files Permission denied",
		"zombies 0",
		"stopped, 1 children left",
	} {
		if !strings.Contains(e.console, "boot-test: "+want) && !strings.Contains(e.console, want+"\r\n") {
			t.Errorf("the console lacks %q", want)
		}
	}
	g.wiped(t, e)
}

// TestAddressAgain: where the process that asks for an address ends, the guest goes on
// and asks again.
func TestAddressAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.CopyFS(root, os.DirFS(oracle.Fixture(t, "demo-root"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "serve"), []byte(`#!/bin/sh
ps -o pid,args | awk '/[c]ocoroot-dhcp/ { print $1 }' | xargs kill -9
sleep 5
echo "`+ran+`, IPv6 routes of anybody: $(cat /proc/sys/net/ipv6/conf/eth0/accept_ra)"
`))
	base := filepath.Join(dir, "base.tar")
	oracle.Run(t, "tar", "-C", root, "-cf", base, ".")
	oracle.Layout(t, filepath.Join(dir, "app"), map[string]any{"Entrypoint": []string{"/serve"}}, base)
	for network, want := range map[string]struct {
		addresses int
		routes    string
	}{"dhcp": {2, "1"}, "10.0.2.15/24": {0, "0"}} {
		t.Run(network[:4], func(t *testing.T) {
			dir := t.TempDir()
			g := seal(t, dir, filepath.Join(filepath.Dir(base), "app"), "--network", network).boots(t)
			g.forwards, g.stop = []launch.Forward{{Host: freePort(t), Guest: 80}}, make(chan struct{})
			e := g.run(t, bootLimit)
			if e.err != nil || e.Exit == nil || *e.Exit != 0 || !strings.Contains(e.console, ran+", IPv6 routes of anybody: "+want.routes) {
				t.Errorf("outcome = %+v, %v", e.Outcome, e.err)
			}
			if n := strings.Count(e.console, "has the address 10.0.2.15/24"); n != want.addresses {
				t.Errorf("%d addresses came by DHCP; want %d", n, want.addresses)
			}
		})
	}
}
