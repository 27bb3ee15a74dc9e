package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\n"

// peer is the test's end of the connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
}

// say writes text as it stands.
func (p *peer) say(text string) {
	// The client may have hung up already, as some tests want it to.
	p.conn.Write([]byte(text))
}

// hear returns the next command's name and id.
func (p *peer) hear() (command string, id uint64) {
	if !p.in.Scan() {
		p.t.Errorf("the client hung up: %v", p.in.Err())
		return "", 0
	}
	var m struct {
		Execute string
		ID      uint64
	}
	if err := json.Unmarshal(p.in.Bytes(), &m); err != nil {
		p.t.Error(err)
	}
	return m.Execute, m.ID
}

// answer hears one command and returns text to it.
func (p *peer) answer(text string) {
	_, id := p.hear()
	p.say(fmt.Sprintf(`{"return": %s, "id": %d}`+"\n", text, id))
}

// serve starts a peer that runs script and hangs up; the returned function
// dials it.
func serve(t *testing.T, script func(*peer)) func(context.Context) (*Client, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		script(&peer{t, conn, bufio.NewScanner(conn)})
	})
	t.Cleanup(func() {
		l.Close()
		done.Wait()
		os.RemoveAll(dir)
	})
	return func(ctx context.Context) (*Client, error) { return Dial(ctx, path) }
}

// dial expects the negotiation to work.
func dial(t *testing.T, script func(*peer)) *Client {
	t.Helper()
	c, err := serve(t, func(p *peer) {
		p.say(greeting)
		p.answer("{}")
		script(p)
	})(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// soon is a deadline that ends a hanging test.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// ended waits until nothing more is read.
func ended(t *testing.T, c *Client) {
	t.Helper()
	if err := c.Execute(soon(t), "x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("Execute error = %v; want ErrClosed", err)
	}
}

func TestEventsBetweenAnswers(t *testing.T) {
	c := dial(t, func(p *peer) {
		p.say(`{"event": "NICE", "timestamp": {"seconds": 1, "microseconds": 5}}` + "\n")
		_, id := p.hear()
		p.say(`{"timestamp": {"seconds": 2}, "event": "RESUME"}` + "\r\n")
		p.say(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-`)
		time.Sleep(20 * time.Millisecond)
		p.say(fmt.Sprintf(`reset"}}`+"\n"+`{"event": "LAST"}`+"\n"+`{"return": {"running": true}, "id": %d}`+"\n", id))
	})
	var status struct{ Running bool }
	if err := c.Execute(soon(t), "query-status", nil, &status); err != nil || !status.Running {
		t.Errorf("Execute = %+v, %v; want running", status, err)
	}
	// The events survive the end of the connection, in their order.
	ended(t, c)
	if e, err := c.Event(soon(t), ""); err != nil || e.Name != "NICE" {
		t.Errorf("Event() = %q, %v; want NICE", e.Name, err)
	}
	e, err := c.Event(soon(t), "SHUTDOWN")
	if err != nil || string(e.Data) != `{"guest": true, "reason": "guest-reset"}` {
		t.Errorf("Event(SHUTDOWN) = %s, %v", e.Data, err)
	}
	if e, err := c.Event(soon(t), ""); err != nil || e.Name != "LAST" {
		t.Errorf("Event() = %q, %v; want LAST", e.Name, err)
	}
	if _, err := c.Event(soon(t), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("Event() error = %v; want ErrClosed", err)
	}
}

func TestEventWhileWaiting(t *testing.T) {
	c := dial(t, func(p *peer) {
		time.Sleep(30 * time.Millisecond)
		p.say(`{"event": "A"}` + "\n")
		time.Sleep(30 * time.Millisecond)
		p.say(`{"event": "B"}` + "\n")
		p.answer("{}")
	})
	if e, err := c.Event(soon(t), "B"); err != nil || e.Name != "B" {
		t.Errorf("Event(B) = %q, %v", e.Name, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if e, err := c.Event(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Event() = %q, %v; want DeadlineExceeded", e.Name, err)
	}
	if err := c.Execute(soon(t), "x", nil, nil); err != nil {
		t.Errorf("Execute after a wait in vain: %v", err)
	}
}

func TestOldestEventsGoFirst(t *testing.T) {
	c := dial(t, func(p *peer) {
		for i := range maxEvents + 10 {
			p.say(fmt.Sprintf(`{"event": "E%d"}`+"\n", i))
		}
	})
	ended(t, c)
	if e, err := c.Event(soon(t), ""); err != nil || e.Name != "E10" {
		t.Errorf("Event() = %q, %v; want E10, the oldest of the newest %d", e.Name, err, maxEvents)
	}
}

func TestRefusal(t *testing.T) {
	c := dial(t, func(p *peer) {
		_, id := p.hear()
		p.say(fmt.Sprintf(`{"id": %d, "error": {"class": "CommandNotFound", "desc": "The command fly has not been found"}}`+"\n", id))
		p.answer("{}")
	})
	var e *Error
	if err := c.Execute(soon(t), "fly", nil, nil); !errors.As(err, &e) || e.Class != "CommandNotFound" || e.Command != "fly" || e.Desc == "" {
		t.Errorf("Execute(fly) error = %#v; want *Error of class CommandNotFound", err)
	}
	if err := c.Execute(soon(t), "walk", nil, nil); err != nil {
		t.Errorf("Execute after a refusal: %v", err)
	}
}

// What QEMU says is bounded.
func TestRefusalIsCut(t *testing.T) {
	c := dial(t, func(p *peer) {
		_, id := p.hear()
		p.say(fmt.Sprintf(`{"error": {"class": "%[1]sG", "desc": "%[1]sx"}, "id": %[2]d}`+"\n", strings.Repeat("é", maxDesc), id))
	})
	var refused *Error
	if err := c.Execute(soon(t), "x", nil, nil); !errors.As(err, &refused) {
		t.Fatalf("Execute error = %v; want *Error", err)
	}
	if want := strings.Repeat("é", maxDesc); refused.Desc != want || refused.Class != want {
		t.Errorf("refusal = %.80q, %d bytes, class %.80q; want %d letters of each", refused.Desc, len(refused.Desc), refused.Class, maxDesc)
	}
}

// A late answer is not taken for that to the next command.
func TestLateAnswer(t *testing.T) {
	release := make(chan struct{})
	c := dial(t, func(p *peer) {
		_, id := p.hear()
		<-release
		p.say(fmt.Sprintf(`{"return": {"n": 1}, "id": %d}`+"\n", id))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Execute error = %v; want DeadlineExceeded", err)
	}
	close(release)
	ended(t, c)
}

// What was called off before it was sent is not sent.
func TestEndedContext(t *testing.T) {
	c := dial(t, func(p *peer) {
		command, id := p.hear()
		p.say(fmt.Sprintf(`{"return": %q, "id": %d}`+"\n", command, id))
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Execute(ctx, "inject", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Execute error = %v; want Canceled", err)
	}
	var heard string
	if err := c.Execute(soon(t), "next", nil, &heard); err != nil || heard != "next" {
		t.Errorf("the peer heard %q, %v; want only the second command", heard, err)
	}
}

func TestWriteDeadline(t *testing.T) {
	hold := make(chan struct{})
	c := dial(t, func(p *peer) { <-hold })
	defer close(hold)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	// More than a socket's buffer, to a peer that does not read.
	err := c.Execute(ctx, "big", map[string]string{"x": strings.Repeat("x", 1<<20)}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Execute error = %v; want DeadlineExceeded", err)
	}
	ended(t, c)
}

func TestSeveralGoroutines(t *testing.T) {
	const n = 20
	c := dial(t, func(p *peer) {
		for range n {
			command, id := p.hear()
			p.say(fmt.Sprintf(`{"return": %q, "id": %d}`+"\n", command, id))
		}
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var got string
			want := fmt.Sprintf("c%d", i)
			if err := c.Execute(soon(t), want, nil, &got); err != nil || got != want {
				t.Errorf("Execute(%s) = %q, %v", want, got, err)
			}
		})
	}
	wg.Wait()
}

func TestBadGreeting(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		want       error
	}{
		{"nothing", "", ErrClosed},
		{"half a line", `{"QMP": {}`, ErrClosed},
		{"another protocol", "220 mail\n", ErrProtocol},
		{"an array", "[]\n", ErrProtocol},
		{"an event first", `{"event": "RESUME"}` + "\n", ErrProtocol},
		{"an answer first", `{"return": {}, "id": 1}` + "\n", ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := serve(t, func(p *peer) { p.say(tt.says) })(soon(t))
			if !errors.Is(err, tt.want) || c != nil {
				t.Errorf("Dial = %v, %v; want %v", c, err, tt.want)
			}
		})
	}
}

func TestSilentPeer(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := serve(t, func(*peer) { <-hold })(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial error = %v; want DeadlineExceeded", err)
	}
}

func TestBadAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		want       error
	}{
		{"closed early", "", ErrClosed},
		{"half an answer", `{"return": {`, ErrClosed},
		{"second greeting", greeting, ErrProtocol},
		{"no id", `{"return": {}}` + "\n", ErrProtocol},
		{"error without id", `{"error": {"class": "GenericError", "desc": "x"}}` + "\n", ErrProtocol},
		{"foreign id", `{"return": {}, "id": 99}` + "\n", ErrProtocol},
		{"id answered already", `{"return": {}, "id": 1}` + "\n", ErrProtocol},
		{"id is text", `{"return": {}, "id": "2"}` + "\n", ErrProtocol},
		{"both", `{"return": {}, "error": {}, "id": 2}` + "\n", ErrProtocol},
		{"neither", `{"id": 2}` + "\n", ErrProtocol},
		{"wrong type", `{"return": [], "id": 2}` + "\n", ErrProtocol},
		{"line too long", `{"return": {}, "pad": "` + strings.Repeat("x", maxLine) + `", "id": 2}` + "\n", ErrProtocol},
		{"event too long", `{"event": "E", "data": "` + strings.Repeat("x", maxEvent) + `"}` + "\n", ErrProtocol},
		{"event's name too long", `{"event": "` + strings.Repeat("E", maxEvent+1) + `"}` + "\n", ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, func(p *peer) {
				p.hear()
				p.say(tt.says)
			})
			var result struct{}
			if err := c.Execute(soon(t), "x", nil, &result); !errors.Is(err, tt.want) {
				t.Errorf("Execute error = %v; want %v", err, tt.want)
			}
		})
	}
}

func TestUnsendableArguments(t *testing.T) {
	c := dial(t, func(p *peer) { p.answer("{}") })
	if err := c.Execute(soon(t), "x", func() {}, nil); err == nil {
		t.Error("Execute with a function for arguments worked")
	}
	if err := c.Execute(soon(t), "x", nil, nil); err != nil {
		t.Errorf("Execute afterwards: %v", err)
	}
	c.Close()
	if err := c.Execute(soon(t), "x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Execute after Close error = %v; want ErrClosed", err)
	}
}
