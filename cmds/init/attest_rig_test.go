package main_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/snptest"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secret/table"
)

// answering is the far end of a guest's channel: an owner, or whoever plays one.
// It verifies nothing; the owner's tool has tests for that.
type answering struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
	table   []byte

	// Sends are the frames that go back for one of the guest's; nil means what
	// an owner sends.
	sends func(k release.Kind, body []byte) []byte

	mu        sync.Mutex
	requests  [][]byte
	hangsUp   bool // in the middle of the answer
	answers   [][]byte
	want      []byte // the confirmation
	confirmed bool
}

// tableOf makes a table of any content.
func tableBytes(t testing.TB, entries []table.Entry) []byte {
	t.Helper()
	b, err := table.Build(entries, 16<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	return bytes.Clone(b.Bytes())
}

func newAnswering(t testing.TB, entries ...table.Entry) *answering {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &answering{public: public, private: private, table: tableBytes(t, entries)}
}

// publicOf returns the guest's key in a request.
func publicOf(request []byte) []byte { return request[4+release.ChallengeSize+4+6+4:][:1216] }

// answer is what an owner makes for a request.
func (a *answering) answer(t testing.TB, request []byte) (answer, confirm []byte) {
	public, err := hpke.MLKEM768X25519().NewPublicKey(publicOf(request))
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	tr := release.Transcript(request)
	enc, s, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), release.Info(tr))
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	ct, err := s.Seal(nil, a.table)
	if err != nil {
		t.Error(err)
	}
	if confirm, err = s.Export("done", release.ConfirmSize); err != nil {
		t.Error(err)
	}
	sealed := append(enc, ct...)
	return append(ed25519.Sign(a.private, release.Signed(tr, sealed)), sealed...), confirm
}

var testChallenge = bytes.Repeat([]byte{0xc5}, release.ChallengeSize)

// owner is what an owner sends for a frame.
func (a *answering) owner(t testing.TB, k release.Kind, body []byte) []byte {
	switch k {
	case release.Hello:
		if len(body) == len(release.Protocol) {
			return release.Append(nil, release.Challenge, testChallenge)
		}
	case release.Ask:
		answer, confirm := a.answer(t, body)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.requests, a.answers, a.want = append(a.requests, body), append(a.answers, answer), confirm
		return release.Append(nil, release.Answer, answer)
	case release.Done:
		a.mu.Lock()
		defer a.mu.Unlock()
		a.confirmed = bytes.Equal(body, a.want)
	}
	return nil
}

// serve answers on a connection until it ends.
func (a *answering) serve(t testing.TB, conn net.Conn) {
	defer conn.Close()
	var frames release.Frames
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil || frames.Add(buf[:n]) != nil {
			return
		}
		for k, body, ok := frames.Next(); ok; k, body, ok = frames.Next() {
			var out []byte
			if a.sends != nil {
				out = a.sends(k, body)
			} else {
				out = a.owner(t, k, body)
			}
			if a.hangsUp && k == release.Ask {
				out = out[:len(out)/2]
			}
			if _, err := conn.Write(out); err != nil || a.hangsUp && k == release.Ask {
				return
			}
		}
	}
}

// asks makes the guest one that asks its owner over the channel, with a processor
// that is FAKE.
func (g *guest) asks(t testing.TB, psp *snptest.PSP, a *answering, channel string) *guest {
	t.Helper()
	if psp == nil {
		psp = &snptest.PSP{Chip: snptest.NewChip("Genoa-B1", snptest.TCB{Bootloader: 9, SNP: 23, Microcode: 72})}
	}
	g.entries = nil
	if g.fakeTSM == "" {
		g.fakeTSM = oracle.Fixture(t, "faketsm/fake_tsm.ko")
	}
	g.initrd = snptest.Archive(t, g.initrd, g.fakeTSM)
	g.extra = append(g.extra, psp.Serve(t)...)
	var owner policy.Owner
	copy(owner[:], a.public)
	dir, err := os.MkdirTemp("", "owner") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "channel")
	network, address := "unix", socket
	switch channel {
	case "serial:ttyS2":
		g.extra = append(g.extra, "-chardev", "socket,id=owner,path="+socket, "-device", "isa-serial,index=2,chardev=owner")
	case "virtio:org.cocoroot.release":
		g.extra = append(g.extra, "-chardev", "socket,id=owner,path="+socket,
			"-device", "virtio-serial-pci,disable-legacy=on,iommu_platform=on", "-device", "virtserialport,chardev=owner,name=org.cocoroot.release")
	case "tcp":
		network, address = "tcp", "127.0.0.1:0"
	default:
		t.Fatalf("no channel %s", channel)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if channel == "tcp" { // QEMU's network has this machine's loopback as 10.0.2.2
		channel = fmt.Sprintf("tcp:10.0.2.2:%d", l.Addr().(*net.TCPAddr).Port)
		g.extra = append(g.extra, "-netdev", "user,id=owner,restrict=off", "-device", "virtio-net-pci,netdev=owner,disable-legacy=on,iommu_platform=on,romfile=")
	}
	g.cmdline += " cocoroot.owner=" + owner.String() + " cocoroot.channel=" + channel
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { conn.Close() })
			wg.Go(func() { a.serve(t, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return g
}

// length replaces the body's length in a frame.
func length(frame []byte, n uint32) []byte {
	binary.LittleEndian.PutUint32(frame[5:], n)
	return frame
}

// after returns a function that reports whether d has passed since its first call.
func after(d time.Duration) func() bool {
	var once sync.Once
	var end time.Time
	return func() bool {
		once.Do(func() { end = time.Now().Add(d) })
		return time.Now().After(end)
	}
}
