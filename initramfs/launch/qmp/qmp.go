// Package qmp speaks the QEMU Machine Protocol over a connected socket: JSON
// lines, one answer for each command, and events at any time in between
// (QEMU docs/interop/qmp-spec).
//
// The peer is QEMU, or whoever holds the socket: on a confidential guest's
// host that is the attacker. Lines are bounded, events are kept up to a
// number, and an answer that belongs to no question ends the connection.
// None of that makes an answer true; nothing that QEMU says about a guest is
// evidence for its owner, except what the platform has signed.
package qmp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"cocoroot/initramfs/strictjson"
)

const (
	// maxLine is the longest line in bytes that is read. The longest in
	// practice, query-qmp-schema's, has about 200 KiB.
	maxLine = 1 << 20
	// maxEvents is the number of events kept for Event. When nobody takes
	// them the oldest go first: the newest says how the guest ended.
	maxEvents = 256
	// maxEvent is the longest name and data in bytes that an event may have.
	maxEvent = 64 << 10
	// maxDesc is how many characters of QEMU's sentence an error has.
	maxDesc = 500
)

var (
	// ErrProtocol is returned when the peer says what QMP does not allow.
	ErrProtocol = errors.New("the peer does not speak QMP")
	// ErrClosed is returned when the peer, or Close, has ended the
	// connection.
	ErrClosed = errors.New("the QMP connection is closed")
)

// Error is QEMU's refusal of a command. The peer's words are cut to a bound; who
// prints them has to keep them from acting on a terminal.
type Error struct {
	Command string // what was executed
	Class   string // GenericError, CommandNotFound, …
	Desc    string // QEMU's sentence
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("cannot execute %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Event is a message that QEMU sends unasked.
type Event struct {
	Name string          // SHUTDOWN, RESUME, …
	Data json.RawMessage // nil when the event has none
}

// Client is one connection. Its methods may be called from several goroutines;
// commands take turns.
type Client struct {
	conn    net.Conn
	turn    sync.Mutex    // held while a command is executed
	asked   atomic.Uint64 // id of the newest command
	answers chan message  // has room for one; read closes it
	events  chan Event    // oldest first; read closes it
	err     error         // why nothing more is read, once both are closed
}

// message is every line that QEMU can send.
type message struct {
	QMP    json.RawMessage `json:"QMP"`
	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// Dial connects to the unix socket at path and negotiates.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot reach QEMU's QMP socket: %w", err)
	}
	return New(ctx, conn)
}

// New waits for QEMU's greeting on a connected socket and leaves capability
// negotiation. The client owns conn from here on, also after an error.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, answers: make(chan message, 1), events: make(chan Event, maxEvents)}
	go c.read()
	_, err := c.ask(ctx, nil)
	if err == nil {
		err = c.Execute(ctx, "qmp_capabilities", nil, nil)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot negotiate with QEMU: %w", err)
	}
	return c, nil
}

// Close ends the connection. QEMU goes on without it.
func (c *Client) Close() error { return c.conn.Close() }

// Execute runs one command and, with a non-nil result, decodes what it
// returned. args may be nil. QEMU's refusal is an *Error. When the context
// ends before the answer has come, the connection ends too.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, c.asked.Load() + 1})
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return fmt.Errorf("cannot execute %s: %w", command, err)
	}
	c.asked.Add(1)
	m, err := c.ask(ctx, append(line, '\n'))
	if err != nil {
		return fmt.Errorf("cannot execute %s: %w", command, err)
	}
	if m.Error != nil {
		return &Error{Command: command, Class: cut(m.Error.Class), Desc: cut(m.Error.Desc)}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("cannot read the answer to %s: %w: %w", command, ErrProtocol, strictjson.Plain(err))
	}
	return nil
}

func cut(s string) string { return fmt.Sprintf("%.*s", maxDesc, s) }

// ask writes a line, if there is one, and waits for the answer. An answer that
// comes right before the end of the connection, as quit's does, counts.
func (c *Client) ask(ctx context.Context, line []byte) (message, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	// A write fails only when the connection has ended, or ends with the context:
	// read says so, after what had arrived before.
	c.conn.Write(line)
	m, ok := <-c.answers
	if !ok {
		return message{}, cmp.Or(ctx.Err(), c.err)
	}
	return m, nil
}

// Event returns the next event of this name, or any with the name "". Those
// before it are forgotten. Events that came before the connection ended can
// still be taken after it.
func (c *Client) Event(ctx context.Context, name string) (Event, error) {
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				return Event{}, fmt.Errorf("cannot wait for QEMU's event: %w", c.err)
			}
			if name == "" || name == e.Name {
				return e, nil
			}
		case <-ctx.Done():
			return Event{}, fmt.Errorf("cannot wait for QEMU's event: %w", ctx.Err())
		}
	}
}

// read hands out what arrives until the connection ends.
func (c *Client) read() {
	in := bufio.NewReaderSize(c.conn, maxLine)
	for answered := uint64(0); c.err == nil; {
		line, err := in.ReadSlice('\n')
		var m message
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			c.err = fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine)
		case err != nil: // half a line at the end counts for nothing
			c.err = fmt.Errorf("%w: %w", ErrClosed, err)
		default:
			if err := json.Unmarshal(line, &m); err != nil {
				c.err = fmt.Errorf("%w: %w", ErrProtocol, strictjson.Plain(err))
			} else {
				c.err = c.deliver(m, &answered)
			}
		}
	}
	c.conn.Close()
	close(c.answers)
	close(c.events)
}

// deliver hands out a message. answered is the number of answers until now, of
// which the greeting is the first: they come in the order of the commands.
func (c *Client) deliver(m message, answered *uint64) error {
	greeting := *answered == 0
	switch {
	case greeting != (m.QMP != nil):
		return fmt.Errorf("%w: a greeting comes first, and once", ErrProtocol)
	case greeting:
	case m.Event != "":
		return c.keep(Event{m.Event, m.Data})
	case (m.Return == nil) == (m.Error == nil):
		return fmt.Errorf("%w: neither an event nor an answer", ErrProtocol)
	case m.ID == nil || *m.ID != *answered || *answered > c.asked.Load():
		return fmt.Errorf("%w: an answer to nothing that was asked", ErrProtocol)
	}
	*answered++
	c.answers <- m // there is room: who asked the last one has taken its answer
	return nil
}

// keep notes an event for Event to take.
func (c *Client) keep(e Event) error {
	if n := len(e.Name) + len(e.Data); n > maxEvent {
		return fmt.Errorf("%w: an event of %d bytes", ErrProtocol, n)
	}
	for {
		select {
		case c.events <- e:
			return nil
		default:
		}
		select {
		case <-c.events:
		default:
		}
	}
}
