package main_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
)

// goService is a program that is all of an image, as "FROM scratch" makes them.
const goService = `package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		for range stop {
			if len(os.Args) == 1 {
				os.Exit(3)
			}
		}
	}()
	http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "served by", os.Getuid()) }))
}
`

// TestServices boots container images of real services, as their authors configure
// them, uses each over the network, and stops it.
func TestServices(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	ports := func(p string) object { return object{p: struct{}{}} }
	for name, tc := range some(t, map[string]struct {
		layer  func(t *testing.T) string
		config object
		port   uint16
		memory int
		use    func(conn net.Conn) (string, error)
		want   string // of what use returns
		exit   int
		grace  string
	}{
		"nginx": {debianLayer("nginx"), object{
			"Cmd": []string{"nginx", "-g", "daemon off;"}, "StopSignal": "SIGQUIT", "ExposedPorts": ports("80/tcp"),
		}, 80, 0, getPage, "served from a sealed guest", 0, ""},
		"redis": {debianLayer("redis"), object{
			"User": "redis", "WorkingDir": "/data", "Volumes": ports("/data"), "ExposedPorts": ports("6379/tcp"),
			"Entrypoint": []string{"redis-server"}, "Cmd": []string{"--protected-mode", "no", "--bind", "0.0.0.0"},
		}, 6379, 0, askRedis, "+OK +PONG $5 hello", 0, ""},
		"postgres": {debianLayer("postgres"), object{
			"User": "postgres", "StopSignal": "SIGINT", "Volumes": ports("/data"), "ExposedPorts": ports("5432/tcp"),
			"Env":        []string{"PGDATA=/data/db", "PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin"},
			"Entrypoint": []string{"/bin/sh", "-c", `initdb --auth=trust --no-sync >/dev/null && echo "host all all all trust" >>"$PGDATA/pg_hba.conf" && exec postgres -c listen_addresses='*'`},
		}, 5432, 2048, askPostgres, "42", 0, ""},
		"python": {debianLayer("python"), object{
			"User": "www-data", "WorkingDir": "/srv/www", "StopSignal": "INT", "ExposedPorts": ports("8000"),
			"Entrypoint": []string{"python3.11", "-m", "http.server"},
		}, 8000, 0, getPage, "served by python", 0, ""},
		"go":       {goLayer, object{"User": "1000:1000", "Entrypoint": []string{"/service"}, "ExposedPorts": ports("8080/tcp")}, 8080, 0, getPage, "served by 1000", 3, ""},
		"stubborn": {goLayer, object{"Entrypoint": []string{"/service", "goes on"}}, 8080, 0, getPage, "served by 0", 128 + 9, "1s"},
	}, "nginx", "go", "stubborn") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			oracle.Layout(t, filepath.Join(dir, "app"), tc.config, tc.layer(t))
			s := seal(t, dir, filepath.Join(dir, "app"), "--append", "no_timer_check", "--stop-timeout", cmp.Or(tc.grace, "20s"))
			g := s.boots(t)
			g.memory = tc.memory
			host := freePort(t)
			g.forwards = []launch.Forward{{Host: host, Guest: tc.port}}
			stop, said := make(chan struct{}), make(chan string, 1)
			g.stop = stop
			begin := time.Now()
			running, ended := context.WithCancel(t.Context())
			go func() {
				defer close(stop)
				said <- useService(running, host, tc.use)
			}()
			e := g.run(t, 2*bootLimit)
			ended()
			if got := <-said; !strings.Contains(got, tc.want) {
				t.Errorf("the service said %q; want %q", got, tc.want)
			}
			if e.err != nil || e.Reason != "guest-shutdown" || e.Exit == nil || *e.Exit != tc.exit {
				t.Errorf("outcome = %+v, %v; want exit code %d", e.Outcome, e.err, tc.exit)
			}
			if !strings.Contains(e.console, "has the address 10.0.2.15/24") {
				t.Error("no address came by DHCP")
			}
			t.Logf("%s: %d MB sealed, %.1f s", name, s.policy.Image.DeviceSize()>>20, time.Since(begin).Seconds())
		})
	}
}

// freePort returns a port at which nobody listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// useService tries until a service answers, or the guest has ended. QEMU takes a
// connection before anybody listens in the guest, and closes it.
func useService(running context.Context, port uint16, use func(net.Conn) (string, error)) (last string) {
	for ; running.Err() == nil; time.Sleep(time.Second) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err.Error()
			continue
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		answer, err := use(conn)
		conn.Close()
		if err == nil {
			return answer
		}
		last = err.Error()
	}
	return last
}

func getPage(conn net.Conn) (string, error) {
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r.Body)
	return r.Status + " " + string(text), err
}

func askRedis(conn net.Conn) (string, error) {
	io.WriteString(conn, "SET greeting hello\r\nPING\r\nGET greeting\r\nQUIT\r\n")
	text, err := io.ReadAll(conn)
	if err == nil && len(text) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return strings.Join(strings.Fields(string(text)), " "), err
}

// askPostgres sends a query (PostgreSQL's documentation, "Frontend/Backend Protocol").
func askPostgres(conn net.Conn) (string, error) {
	message := func(kind, text string) {
		io.WriteString(conn, kind+string(binary.BigEndian.AppendUint32(nil, uint32(4+len(text))))+text)
	}
	message("", "\x00\x03\x00\x00user\x00postgres\x00\x00")
	message("Q", "SELECT 6*7\x00")
	message("X", "")
	text, err := io.ReadAll(conn)
	if err == nil && !bytes.Contains(text, []byte("SELECT 1\x00")) {
		err = fmt.Errorf("it said %q", text)
	}
	_, row, _ := bytes.Cut(text, []byte("\x00\x01\x00\x00\x00\x02")) // one column of two bytes
	return string(row[:min(len(row), 2)]), err
}

func debianLayer(name string) func(*testing.T) string {
	return func(t *testing.T) string { return oracle.Fixture(t, "containers/"+name+".tar") }
}

func goLayer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.go"), []byte(goService))
	build := exec.Command(oracle.Tool(t, "go"), "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "service"), filepath.Join(dir, "main.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	layer := filepath.Join(dir, "layer.tar")
	oracle.Run(t, "tar", "-C", dir, "--owner=0", "--group=0", "-cf", layer, "service")
	return layer
}
