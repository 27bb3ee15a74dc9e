package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// wire is a card to which only these frames come.
type wire struct {
	net.PacketConn
	frames [][]byte
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(w.frames) == 0 {
		return 0, nil, io.ErrClosedPipe
	}
	n := copy(b, w.frames[0])
	w.frames = w.frames[1:]
	return n, nil, nil
}

// receive hands frames to what reads them in the first process, and returns what
// would be used of those that count as answers.
func receive(frames ...[]byte) (used int) {
	conn := nclient4.NewBroadcastUDPConn(&wire{frames: frames}, &net.UDPAddr{Port: nclient4.ClientPort})
	for {
		b := make([]byte, nclient4.MaxMessageSize)
		n, _, err := conn.ReadFrom(b)
		if errors.Is(err, io.ErrClosedPipe) {
			return used
		}
		if err != nil {
			continue
		}
		answer, err := dhcpv4.FromBytes(b[:n])
		if err != nil {
			continue
		}
		answer.MessageType()
		answer.ServerIdentifier()
		answer.IPAddressLeaseTime(0)
		if n, err := fromLease(answer); err == nil {
			used++
			if !n.Address.IsValid() || n.Gateway.IsValid() && !n.Address.Contains(n.Gateway) || len(n.DNS) > mostDNS {
				panic("used " + n.Address.String() + " " + n.Gateway.String())
			}
		}
	}
}

// frame returns an IP packet for the port of DHCP's clients that says it has length
// bytes, whatever follows.
func frame(length int, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[9] = 0x45, 17 // version 4, 5 words of header; UDP
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	binary.BigEndian.PutUint16(b[22:], nclient4.ClientPort)
	return append(b, payload...)
}

// answer is a whole one.
func answer(t testing.TB) []byte {
	ack, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IP{10, 0, 2, 15}), dhcpv4.WithNetmask(net.IPMask{255, 255, 255, 0}),
		dhcpv4.WithRouter(net.IP{10, 0, 2, 2}), dhcpv4.WithDNS(net.IP{10, 0, 2, 3}))
	if err != nil {
		t.Fatal(err)
	}
	return ack.ToBytes()
}

// Whoever is on the guest's network can send such frames. A panic here is one of the
// first process, and of the kernel.
func TestFrames(t *testing.T) {
	good := frame(28+len(answer(t)), answer(t))
	for _, length := range []int{20, 21, 27, 28, 29} {
		if n := receive(frame(length, make([]byte, 18)), good); n != 1 {
			t.Errorf("after a packet of %d bytes in a longer frame, %d answers count; want 1", length, n)
		}
	}
	for n := range len(good) { // cut anywhere
		if receive(good[:n]) != 0 {
			t.Errorf("the first %d of %d bytes count as an answer", n, len(good))
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, length := range []int{20, 28, 28 + len(answer(f))} {
		f.Add(frame(length, answer(f)))
	}
	f.Fuzz(func(t *testing.T, b []byte) { receive(b) })
}

// One of the seeds is used, so that the target reaches the end.
func TestFuzzFramesSeeds(t *testing.T) {
	if n := receive(frame(20, answer(t)), frame(28+len(answer(t)), answer(t))); n != 1 {
		t.Errorf("of the seeds %d are used; want 1", n)
	}
}
