package snp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"cocoroot/unlock/release"
)

// Errors returned by the methods of Carrier.
var (
	// ErrGone means that the guest, or its QEMU, ended.
	ErrGone = errors.New("the guest is gone")
	// ErrUnreached means that nothing listens where the guest should be.
	ErrUnreached = errors.New("cannot reach the guest")
	// ErrSilent means that the guest did not say what was waited for.
	ErrSilent = errors.New("the guest did not answer in time")
	// ErrOtherGuest means that a packet is not for the guest at the other end.
	ErrOtherGuest = errors.New("the packet is for another guest, for another boot of this one, or for an earlier challenge")
)

const (
	// patience is how long a guest may take before something is sent again; it
	// says hello each second.
	patience = 5 * time.Second
	// strikes is how many hellos of another boot show that it is another one.
	strikes = 3
	// listenPrefix begins the name of a carrier to which guests connect.
	listenPrefix = "tcp-listen:"
)

// Carrier is the host's end of the way to a guest. Nothing that it carries is
// secret, and nothing that comes is believed.
type Carrier struct {
	listener *net.TCPListener // nil for a socket
	path     string
	conn     net.Conn // nil while there is none
	frames   release.Frames
}

// NewCarrier takes the path of a unix socket, where QEMU has the guest's serial
// or virtio port, or tcp-listen:ADDRESS:PORT, to which the guest connects.
func NewCarrier(channel string) (*Carrier, error) {
	address, ok := strings.CutPrefix(channel, listenPrefix)
	if !ok {
		return &Carrier{path: channel}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot wait for the guest: %w", err)
	}
	return &Carrier{listener: l.(*net.TCPListener)}, nil
}

// Close hangs up.
func (c *Carrier) Close() {
	c.hangUp()
	if c.listener != nil {
		c.listener.Close()
	}
}

func (c *Carrier) hangUp() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn, c.frames = nil, release.Frames{}
}

// connect makes sure that there is a connection.
func (c *Carrier) connect(ctx context.Context) (err error) {
	switch {
	case c.conn != nil:
		return nil
	case c.listener == nil:
		var d net.Dialer
		c.conn, err = d.DialContext(ctx, "unix", c.path)
	default:
		stop := context.AfterFunc(ctx, func() { c.listener.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		c.conn, err = c.listener.Accept()
	}
	return err
}

// read waits for bytes. A guest that connected and then says nothing gives way
// to the next one.
func (c *Carrier) read(ctx context.Context, buf []byte) (int, error) {
	c.conn.SetReadDeadline(time.Time{})
	if c.listener != nil {
		c.conn.SetReadDeadline(time.Now().Add(patience))
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return conn.Read(buf)
}

// write sends a frame. A host that does not take it loses the connection.
func (c *Carrier) write(frame []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := c.conn.Write(frame)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrSilent
	}
	return err
}

// talk gives each frame of the guest's to take, and sends what it returns, until
// take is done.
func (c *Carrier) talk(ctx context.Context, take func(release.Kind, []byte) (send []byte, done bool, err error)) error {
	buf := make([]byte, 16<<10)
	for {
		err := c.connect(ctx)
		if err == nil {
			var n int
			n, err = c.read(ctx, buf)
			if flood := c.frames.Add(buf[:n]); flood != nil && c.listener == nil {
				return fmt.Errorf("cannot hear the guest: %w", flood)
			} else if flood != nil {
				err = flood // anybody can connect: the next one may be the guest
			}
		}
		for k, body, ok := c.frames.Next(); ok && err == nil; k, body, ok = c.frames.Next() {
			send, done, fault := take(k, body)
			if done || fault != nil {
				return fault
			}
			if send != nil {
				err = c.write(send)
			}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) && c.listener == nil:
			return fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
		case c.conn == nil:
			return fmt.Errorf("%w: %w", ErrUnreached, err)
		case c.listener == nil:
			return fmt.Errorf("%w: %w", ErrGone, err)
		default:
			c.hangUp() // it comes back, or another does
		}
	}
}

// Collect gives the guest the challenge, and returns what it asks with.
func (c *Carrier) Collect(ctx context.Context, challenge []byte) (r Request, err error) {
	var sent time.Time
	err = c.talk(ctx, func(k release.Kind, body []byte) ([]byte, bool, error) {
		switch {
		case k == release.Hello && time.Since(sent) > patience:
			sent = time.Now()
			return release.Append(nil, release.Challenge, challenge), false, nil
		case k == release.Ask:
			if r, err = ParseRequest(body); err != nil {
				if c.listener != nil {
					err = nil // of whoever has connected; the guest asks again
				}
				return nil, false, err
			}
			return nil, bytes.Equal(r.Challenge[:], challenge), nil
		}
		return nil, false, nil
	})
	return r, err
}

// Inject gives the answer to the guest that it is for, and returns what the
// guest confirms with.
func (c *Carrier) Inject(ctx context.Context, p Packet) (confirm []byte, err error) {
	mine := append([]byte(release.Protocol), p.Transcript[:]...)
	var sent time.Time
	others := 0
	err = c.talk(ctx, func(k release.Kind, body []byte) ([]byte, bool, error) {
		switch {
		case k == release.Done && !sent.IsZero():
			confirm = body
			return nil, true, nil
		case k != release.Hello:
		case !bytes.Equal(body, mine):
			if others++; others == strikes && c.listener == nil {
				return nil, false, ErrOtherGuest
			}
		case time.Since(sent) > patience:
			sent = time.Now()
			return release.Append(nil, release.Answer, p.Answer), false, nil
		}
		return nil, false, nil
	})
	return confirm, err
}

// Refuse tells the guest that it gets nothing, without a reason, so that it ends
// now and not at its deadline. It stays for a few seconds: QEMU drops what the
// guest has not read when the other end hangs up.
func (c *Carrier) Refuse(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	no := release.Append(nil, release.Refusal, nil)
	if c.conn != nil {
		_ = c.write(no)
	}
	// The end of the guest or of the time ends it.
	_ = c.talk(ctx, func(k release.Kind, _ []byte) ([]byte, bool, error) {
		if k == release.Hello {
			return no, false, nil
		}
		return nil, false, nil
	})
}
