package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeQEMU answers QMP as QEMU does for a guest on the platform. Set its fields
// before Serve; read Commands and Running through their methods.
type fakeQEMU struct {
	Guest *pspGuest // nil: no SEV
	// Type is the guest's sev-type; "" is QEMU before 9.1, which has none.
	Type string
	// PDH and Chain answer query-sev-capabilities; without them it is refused.
	PDH, Chain []byte
	// Noise is sent before every answer: whole lines.
	Noise string
	// Answer replaces the answer to a command: it gets the command's id and
	// returns what is sent. Text without a newline at its end is the last
	// that is sent before the connection is closed; with "" nothing comes.
	Answer map[string]func(id uint64) string

	mu       sync.Mutex
	commands []string
}

// Commands returns what was executed, in order.
func (q *fakeQEMU) Commands() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.commands, " ")
}

// Running reports whether the guest was continued.
func (q *fakeQEMU) Running() bool { return slices.Contains(strings.Fields(q.Commands()), "cont") }

// Serve listens on a unix socket until the test ends and returns its path.
func (q *fakeQEMU) Serve(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "psp") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				q.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return path
}

func (q *fakeQEMU) serve(conn net.Conn) {
	fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": "psptest"}, "capabilities": ["oob"]}}`)
	for in := bufio.NewScanner(conn); in.Scan(); {
		var m struct {
			Execute   string
			ID        uint64
			Arguments json.RawMessage
		}
		if err := json.Unmarshal(in.Bytes(), &m); err != nil {
			return
		}
		fmt.Fprint(conn, q.Noise)
		text := q.answer(m.Execute, m.Arguments)(m.ID)
		fmt.Fprint(conn, text)
		if text != "" && !strings.HasSuffix(text, "\n") {
			return
		}
	}
}

// returning is an answer with a result.
func returning(result string) func(uint64) string {
	return func(id uint64) string { return fmt.Sprintf(`{"return": %s, "id": %d}`+"\n", result, id) }
}

// refusal is an answer with an error of QEMU's own wording.
func refusal(desc string) func(uint64) string {
	return func(id uint64) string {
		return fmt.Sprintf(`{"id": %d, "error": {"class": "GenericError", "desc": %q}}`+"\n", id, desc)
	}
}

// answer executes a command, and returns its result or QEMU's words against it.
func (q *fakeQEMU) answer(command string, args json.RawMessage) func(uint64) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.commands = append(q.commands, command)
	base64 := base64.StdEncoding.EncodeToString
	switch f := q.Answer[command]; {
	case f != nil:
		return f
	case command == "qmp_capabilities":
		return returning("{}")
	case command == "cont":
		if q.Guest != nil {
			q.Guest.State = "running"
		}
		return returning("{}")
	case command == "query-status":
		return returning(fmt.Sprintf(`{"running": %t, "singlestep": false, "status": "x"}`, slices.Contains(q.commands, "cont")))
	case command == "query-sev-capabilities" && q.PDH == nil:
		return refusal("KVM not enabled")
	case command == "query-sev-capabilities":
		return returning(fmt.Sprintf(`{"pdh": %q, "cert-chain": %q, "cpu0-id": "AAEC", "cbitpos": 51, "reduced-phys-bits": 1}`,
			base64(q.PDH), base64(q.Chain)))
	case command == "query-sev" && q.Guest == nil:
		return returning(`{"enabled": false, "api-minor": 0, "handle": 0, "state": "uninit", "api-major": 0, "policy": 0, "build-id": 0}`)
	case command == "query-sev":
		return returning(q.info())
	case command == "query-sev-launch-measure" && q.Guest == nil:
		return refusal("SEV launch measurement is not available")
	case command == "query-sev-launch-measure":
		return returning(fmt.Sprintf(`{"data": %q}`, base64(q.Guest.Measure())))
	case command == "sev-inject-launch-secret":
		return q.inject(args)
	}
	return refusal("The command " + command + " has not been found")
}

func (q *fakeQEMU) info() string {
	g := q.Guest
	more := fmt.Sprintf(`"policy": %d, "handle": 1`, g.Policy)
	if q.Type == "sev-snp" {
		more = `"snp-policy": 196608`
	}
	if q.Type != "" {
		more += fmt.Sprintf(`, "sev-type": %q`, q.Type)
	}
	return fmt.Sprintf(`{"enabled": true, "api-major": %d, "api-minor": %d, "build-id": %d, "state": %q, %s}`,
		g.API[0], g.API[1], g.API[2], g.State, more)
}

// inject is QEMU's sev_inject_launch_secret.
func (q *fakeQEMU) inject(args json.RawMessage) func(uint64) string {
	var p struct {
		Header []byte `json:"packet-header"`
		Secret []byte `json:"secret"`
	}
	switch err := json.Unmarshal(args, &p); {
	case err != nil:
		return refusal("Invalid parameter")
	case q.Guest == nil:
		return refusal("SEV not enabled for guest")
	case q.Guest.State != "launch-secret":
		return refusal("SEV: Not in correct state. (LSECRET) 3")
	}
	if s := q.Guest.LaunchSecret(p.Header, p.Secret); s != success {
		return refusal(fmt.Sprintf("SEV: failed to inject secret ret=-5 fw_error=%d 'x'", s))
	}
	return returning("{}")
}
