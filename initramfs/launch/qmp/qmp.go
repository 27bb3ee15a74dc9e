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
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"cocoroot/initramfs/strictjson"
)

const (
	// maxLine is the longest line in bytes that is read. The longest in
	// practice, query-qmp-schema's, has about 200 KiB.
	maxLine = 4 << 20
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

// Error is QEMU's refusal of a command. The peer's words are cut to a bound
// and have no control characters: they may go to a terminal.
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
	Time time.Time       // the host's, at the event
}

// Client is one connection. Its methods may be called from several goroutines;
// commands take turns.
type Client struct {
	conn net.Conn
	turn chan struct{} // holds one token; who has it may execute

	mu       sync.Mutex
	asked    uint64        // id of the newest command
	answered uint64        // id of the newest answer: they come in order
	answer   chan message  // to the newest command; has room for it
	events   []Event       // oldest first
	arrived  chan struct{} // closed, and made anew, at each event
	done     chan struct{} // closed when err is set
	err      error         // why nothing more is read
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
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
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
	c := &Client{conn: conn, turn: make(chan struct{}, 1), arrived: make(chan struct{}), done: make(chan struct{})}
	c.turn <- struct{}{}
	greeted := make(chan struct{})
	go c.read(greeted)
	err := c.negotiate(ctx, greeted)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot negotiate with QEMU: %w", err)
	}
	return c, nil
}

func (c *Client) negotiate(ctx context.Context, greeted <-chan struct{}) error {
	select {
	case <-greeted:
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Close ends the connection. QEMU goes on without it.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Execute runs one command and, with a non-nil result, decodes what it
// returned. args may be nil. QEMU's refusal is an *Error. After the context
// ends the client is still usable; the late answer is dropped.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	m, err := c.ask(ctx, command, args)
	if err != nil {
		return fmt.Errorf("cannot execute %s: %w", command, err)
	}
	if m.Error != nil {
		return &Error{Command: command, Class: printable(m.Error.Class), Desc: printable(m.Error.Desc)}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("cannot read the answer to %s: %w: %w", command, ErrProtocol, strictjson.Plain(err))
	}
	return nil
}

// printable returns the beginning of a text with ? for what is not a letter, mark,
// number, punctuation, symbol or space: no escape sequence, no line break, no
// change of the writing's direction.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return fmt.Sprintf("%.*s", maxDesc, s)
}

// ask sends one command, and waits for the answer.
func (c *Client) ask(ctx context.Context, command string, args any) (message, error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
	defer func() { c.turn <- struct{}{} }()
	answer, err := c.send(ctx, command, args)
	if err != nil {
		return message{}, err
	}
	select {
	case m := <-answer:
		return m, nil
	case <-c.done:
		// The answer may have come right before the end, as quit's does.
		select {
		case m := <-answer:
			return m, nil
		default:
			return message{}, c.err
		}
	case <-ctx.Done():
		return message{}, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// send writes one command, and returns where its answer will be. A line that
// was cut short by the context leaves the connection without use.
func (c *Client) send(ctx context.Context, command string, args any) (<-chan message, error) {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, c.asked + 1})
	if err != nil {
		return nil, err
	}
	answer := make(chan message, 1)
	c.mu.Lock()
	if err = cmp.Or(c.err, ctx.Err()); err == nil {
		c.asked++
		c.answer = answer
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	_, err = c.conn.Write(append(line, '\n'))
	if !stop() {
		// Where the line was out before the context ended, its deadline
		// must not hit the next one.
		<-interrupted
		c.conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(ctx.Err(), c.fail(fmt.Errorf("%w: %w", ErrClosed, err)))
	}
	return answer, nil
}

// Event returns the oldest event that has not been taken yet and bears one of
// the names, or any event when no name is given; others stay. Events that
// came before the connection ended can still be taken after it.
func (c *Client) Event(ctx context.Context, names ...string) (Event, error) {
	for {
		e, arrived, err := c.take(names)
		if arrived == nil {
			return e, err
		}
		select {
		case <-arrived:
		case <-c.done:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("cannot wait for QEMU's event: %w", ctx.Err())
		}
	}
}

// take returns an event, the reason why none can come any more, or the
// channel to wait on.
func (c *Client) take(names []string) (Event, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range c.events {
		match := len(names) == 0
		for _, n := range names {
			match = match || n == e.Name
		}
		if match {
			c.events = append(c.events[:i:i], c.events[i+1:]...)
			return e, nil, nil
		}
	}
	if c.err != nil {
		return Event{}, nil, fmt.Errorf("cannot wait for QEMU's event: %w", c.err)
	}
	return Event{}, c.arrived, nil
}

// fail ends the connection with the first reason given and returns it.
func (c *Client) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		c.conn.Close()
	}
	return c.err
}

// read hands out what arrives until the connection ends.
func (c *Client) read(greeted chan struct{}) {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	for first := true; lines.Scan(); first = false {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrProtocol, strictjson.Plain(err)))
			return
		}
		if first != (m.QMP != nil) {
			c.fail(fmt.Errorf("%w: a greeting comes first, and once", ErrProtocol))
			return
		}
		if first {
			close(greeted)
		} else if err := c.deliver(m); err != nil {
			c.fail(err)
			return
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		c.fail(fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine))
	case err != nil:
		c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
	default:
		c.fail(ErrClosed)
	}
}

// wholeLines is bufio.ScanLines, but half a line at the end is an error.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}

func (c *Client) deliver(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event != "" {
		if n := len(m.Event) + len(m.Data); n > maxEvent {
			return fmt.Errorf("%w: an event of %d bytes", ErrProtocol, n)
		}
		if len(c.events) == maxEvents {
			c.events = c.events[1:]
		}
		at := time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
		c.events = append(c.events, Event{Name: m.Event, Data: m.Data, Time: at})
		close(c.arrived)
		c.arrived = make(chan struct{})
		return nil
	}
	if (m.Return == nil) == (m.Error == nil) {
		return fmt.Errorf("%w: neither an event nor an answer", ErrProtocol)
	}
	if m.ID == nil || *m.ID != c.answered+1 || c.answered == c.asked {
		return fmt.Errorf("%w: an answer to nothing that was asked", ErrProtocol)
	}
	c.answered++
	if c.answered == c.asked { // else nobody waits for it any more
		c.answer <- m
	}
	return nil
}
