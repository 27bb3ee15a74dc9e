package snptest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/modules"
)

// Request is what a guest asks the security processor.
type Request struct {
	VMPL       uint32
	ReportData [64]byte
}

// Answer is what the guest's kernel gets: an error of its own, or a report of
// at most 32 KiB with a table of certificates of at most 16 KiB.
type Answer struct {
	Errno        syscall.Errno
	Report       []byte
	Certificates []byte
	// Others is how often another program in the guest seems to have written
	// to the report's folder meanwhile: its generation grows by so much.
	Others uint32
	// Delay is how long the guest waits. Its kernel waits a minute, or until
	// the program that reads is killed.
	Delay time.Duration
}

// PSP answers the module fake_tsm in guests. Set its fields before Serve.
type PSP struct {
	Chip *Chip
	// Edit changes the report of Chip.Report, with the guest's REPORT_DATA and
	// VMPL in it, before it is signed: the measurement, at least. May be nil.
	Edit func(*sevsnp.Report)
	// Answer changes or replaces an answer. n counts the requests of all
	// guests from 0. May be nil.
	Answer func(n int, q Request, a Answer) Answer

	mu       sync.Mutex
	requests []Request
	answers  []Answer
}

// Asked returns what guests asked until now, and what they got.
func (p *PSP) Asked() ([]Request, []Answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests), slices.Clone(p.answers)
}

// Serve listens until the test ends and returns the arguments by which QEMU connects
// the fourth UART of a guest, or of several.
func (p *PSP) Serve(t testing.TB) []string {
	t.Helper()
	dir := must(os.MkdirTemp("", "psp")) // short enough for a socket's name
	l := must(net.Listen("unix", filepath.Join(dir, "uart")))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(t, conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return []string{"-chardev", "socket,id=psp,path=" + l.Addr().String(), "-device", "isa-serial,index=3,chardev=psp"}
}

// serve answers one guest until it ends, or the test.
func (p *PSP) serve(t testing.TB, conn net.Conn) {
	stop := func() { conn.Close() }
	defer stop()
	go func() {
		<-t.Context().Done() // before Cleanup
		stop()
	}()
	var frame [8 + len(Request{}.ReportData)]byte
	for {
		if _, err := io.ReadFull(conn, frame[:]); err != nil {
			return
		}
		if string(frame[:4]) != "FTSQ" {
			t.Errorf("the guest sends its security processor %q", frame)
			return
		}
		q := Request{VMPL: binary.LittleEndian.Uint32(frame[4:])}
		copy(q.ReportData[:], frame[8:])
		a := p.answer(q)
		select {
		case <-time.After(a.Delay):
		case <-t.Context().Done():
			return
		}
		if _, err := conn.Write(a.frame()); err != nil {
			return
		}
	}
}

func (p *PSP) answer(q Request) Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.Chip.Report()
	r.ReportData, r.Vmpl = q.ReportData[:], q.VMPL
	if p.Edit != nil {
		p.Edit(r)
	}
	a := Answer{Report: p.Chip.Sign(r)}
	if p.Answer != nil {
		a = p.Answer(len(p.requests), q, a)
	}
	p.requests = append(p.requests, q)
	p.answers = append(p.answers, a)
	return a
}

// frame is the answer as fake_tsm.c reads it.
func (a Answer) frame() []byte {
	if a.Errno != 0 {
		a.Report, a.Certificates = nil, nil
	}
	b := []byte("FTSA")
	for _, v := range []int{int(a.Errno), int(a.Others), len(a.Report), len(a.Certificates)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return slices.Concat(b, a.Report, a.Certificates)
}

// Archive returns the path of a copy of an initrd, uncompressed, in which init
// loads the module fake_tsm after all others. The package archive refuses to
// make such a one.
func Archive(t testing.TB, initrd, module string) string {
	t.Helper()
	packed := must(os.ReadFile(initrd))
	r, _, err := files.Decompress(bytes.NewReader(packed), 8<<20)
	must(0, err)
	defer r.Close()
	plain := must(io.ReadAll(r))
	records := must(cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain))))
	i := slices.IndexFunc(records, func(r cpio.Record) bool { return r.Name == modules.ListPath[1:] })
	list := must(io.ReadAll(io.NewSectionReader(records[i], 0, int64(records[i].FileSize))))
	const path = modules.Dir + "/fake_tsm.ko"
	records[i] = cpio.StaticFile(modules.ListPath[1:], string(list)+path+"\n", 0o644)
	return pack(t, append(records, cpio.StaticFile(path[1:], string(must(os.ReadFile(module))), 0o644)))
}

// pack writes an uncompressed archive and returns its path.
func pack(t testing.TB, records []cpio.Record) string {
	t.Helper()
	var b bytes.Buffer
	out := cpio.Newc.Writer(&b)
	must(0, cpio.WriteRecords(out, records))
	must(0, cpio.WriteTrailer(out))
	path := filepath.Join(t.TempDir(), "initrd.cpio")
	must(0, os.WriteFile(path, b.Bytes(), 0o644))
	return path
}
