package qmp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
)

// sessions are what a peer may say, all at once.
var sessions = []string{
	greeting + `{"return": {}, "id": 1}` + "\n" + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n",
	greeting + `{"event": "RESET", "data": {"guest": true}}` + "\n" + `{"return": {}, "id": 1}` + "\n",
	greeting + `{"error": {"class": "GenericError", "desc": "no"}, "id": 1}` + "\n",
	greeting + greeting, `{"return": {}}` + "\n", "no JSON\n", "",
}

// converse lets a client talk to a peer that says the first line, hears a
// command, says the rest and hangs up, and returns the events it sees.
func converse(t testing.TB, said []byte) (events []Event, err error) {
	ctx := context.Background()
	conn, peer := net.Pipe()
	go func() {
		defer peer.Close()
		first, rest, _ := bytes.Cut(said, []byte("\n"))
		peer.Write(said[:len(said)-len(rest)])
		if len(rest) == 0 || len(first) == 0 {
			return
		}
		heard := bufio.NewReader(peer)
		if _, err := heard.ReadBytes('\n'); err != nil {
			return // the client hung up
		}
		go io.Copy(io.Discard, heard)
		peer.Write(rest)
	}()
	c, err := New(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for range maxEvents + 1 {
		e, err := c.Event(ctx, "")
		if err != nil {
			return events, nil
		}
		events = append(events, e)
	}
	t.Errorf("more than %d events are kept", maxEvents)
	return events, nil
}

// FuzzSession: whatever the peer says, a client of it ends.
func FuzzSession(f *testing.F) {
	for _, s := range sessions {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		events, err := converse(t, said)
		if err != nil && events != nil {
			t.Errorf("%d events beside error %v", len(events), err)
		}
		for _, e := range events {
			if e.Name == "" || len(e.Data) > maxEvent {
				t.Errorf("event %+v", e)
			}
		}
	})
}

func TestFuzzSessionSeeds(t *testing.T) {
	events, refused, broken := 0, 0, 0
	for _, s := range sessions {
		got, err := converse(t, []byte(s))
		var refusal *Error
		switch {
		case errors.As(err, &refusal):
			refused++
		case err != nil:
			broken++
		}
		events += len(got)
	}
	if events < 2 || refused < 1 || broken < 4 {
		t.Errorf("the seeds give %d events, %d refusals, %d broken sessions; want at least 2, 1, 4", events, refused, broken)
	}
}
