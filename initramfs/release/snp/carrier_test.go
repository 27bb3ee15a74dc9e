package snp

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/unlock/release"
)

// channel makes a connection what the guest's code speaks through.
type channel struct{ net.Conn }

func (c channel) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := c.Conn.Read(p)
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		err = nil
	} else if err != nil {
		time.Sleep(100 * time.Millisecond)
	}
	return n, err
}

func (c channel) Write(p []byte) { _, _ = c.Conn.Write(p) }

// guest starts the guest's own code at the other end of a connection, and
// returns where its table or error arrives.
func (s *scene) guestCode(owner ed25519.PublicKey, conn net.Conn) <-chan string {
	out := make(chan string, 1)
	go func() {
		table, err := release.Guest{Owner: owner, Wait: 20 * time.Second, Attest: func(data [64]byte) ([]byte, []byte, error) {
			s.report.ReportData = data[:]
			return s.chip.Sign(s.report), nil, nil
		}}.Get(channel{conn})
		if err != nil {
			out <- "error: " + err.Error()
		} else {
			out <- string(table.Bytes())
		}
		conn.Close()
	}()
	return out
}

// The guest's code and the owner's understand each other over a socket and over
// TCP, with a firmware's text in between, and a stranger that says nothing.
func TestCarrier(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		s := newScene(t, "Genoa-B1")
		owner, err := NewOwner()
		if err != nil {
			t.Fatal(err)
		}
		defer owner.Close()
		s.expect.Owner = owner.Public
		var out <-chan string
		var c *Carrier
		if tcp {
			if c, err = NewCarrier("tcp-listen:127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			stranger, err := net.Dial("tcp", c.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			conn, err := net.Dial("tcp", c.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			out = s.guestCode(owner.Public, conn)
		} else {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if c, err = NewCarrier(path); err != nil {
				t.Fatal(err)
			}
			ready := make(chan (<-chan string), 1)
			go func() {
				conn, err := l.Accept()
				if err == nil {
					conn.Write([]byte("firmware CCR1\x02\x00 and a kernel"))
					ready <- s.guestCode(owner.Public, conn)
				}
			}()
			out = <-func() chan (<-chan string) { c.connect(t.Context()); return ready }()
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r, err := c.Collect(ctx, s.expect.Challenge.Bytes)
		if err != nil {
			t.Fatalf("TCP %v: %v", tcp, err)
		}
		if _, err := Verify(s.expect, r, s.evidence); err != nil {
			t.Fatalf("TCP %v: %v", tcp, err)
		}
		p, want, err := owner.Seal(r, []byte("table"))
		if err != nil {
			t.Fatal(err)
		}
		confirm, err := c.Inject(ctx, p)
		if got := <-out; err != nil || got != "table" || !bytes.Equal(confirm, want[:]) {
			t.Errorf("TCP %v: the guest has %q, confirmation %x, %v; want %x", tcp, got, confirm, err, want)
		}
	}
}

// pipe is a carrier whose guest is the test.
func pipe(t *testing.T) (*Carrier, net.Conn) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := NewCarrier(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return c, conn
}

func TestCarrierFails(t *testing.T) {
	hello := release.Append(nil, release.Hello, []byte(release.Protocol))
	packet := Packet{Transcript: [64]byte{1}, Answer: []byte("answer")}
	other := Packet{Transcript: [64]byte{2}}
	asked := release.Append(nil, release.Hello, append([]byte(release.Protocol), packet.Transcript[:]...))
	for name, tc := range map[string]struct {
		says   []byte
		hangUp bool
		inject bool
		want   error
	}{
		"a guest that ends":               {hello, true, false, ErrGone},
		"a guest that says nothing":       {nil, false, false, ErrSilent},
		"a malformed request":             {release.Append(nil, release.Ask, []byte("x")), false, false, ErrRequest},
		"a guest that has not asked":      {bytes.Repeat(hello, 3), false, true, ErrOtherGuest},
		"another guest":                   {bytes.Repeat(release.Append(nil, release.Hello, append([]byte(release.Protocol), other.Transcript[:]...)), 3), false, true, ErrOtherGuest},
		"no confirmation":                 {asked, false, true, ErrSilent},
		"a confirmation before":           {release.Append(nil, release.Done, make([]byte, 32)), false, true, ErrSilent},
		"a guest that ends at the answer": {asked, true, true, ErrGone},
	} {
		c, conn := pipe(t)
		go func() {
			conn.Write(tc.says)
			if tc.hangUp {
				conn.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		var err error
		if tc.inject {
			_, err = c.Inject(ctx, packet)
		} else {
			_, err = c.Collect(ctx, make([]byte, 32))
		}
		cancel()
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v; want %v", name, err, tc.want)
		}
	}
	c, conn := pipe(t)
	go conn.Write(bytes.Repeat([]byte("CCR1"), 2<<20))
	if _, err := c.Collect(t.Context(), make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "too many bytes") {
		t.Errorf("a flood: %v", err)
	}
	c, _ = NewCarrier(filepath.Join(t.TempDir(), "none"))
	if _, err := c.Collect(t.Context(), make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "cannot reach the guest") {
		t.Errorf("no socket: %v", err)
	}
	if _, err := NewCarrier("tcp-listen:nowhere"); err == nil {
		t.Error("no port: no error")
	}
}

// A guest that is refused ends at once.
func TestRefuse(t *testing.T) {
	s := newScene(t, "Genoa-B1")
	c, conn := pipe(t)
	out := s.guestCode(s.owner, conn)
	if _, err := c.Collect(t.Context(), make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	c.Refuse(t.Context())
	if got := <-out; !strings.Contains(got, "does not release") {
		t.Errorf("the guest: %s", got)
	}
}
