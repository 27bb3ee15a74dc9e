package main_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// hostDisk is a disk whose every answer the test decides: it serves QEMU over
// NBD (doc/proto.md of the NBD project: fixed newstyle handshake, simple
// replies, big-endian).
type hostDisk struct {
	socket   string
	writable bool // set it before the guest starts
	image    []byte

	mu sync.Mutex
	// unflushed is what was written and not flushed, by the number of its sector; nil
	// for a disk that forgets nothing.
	unflushed map[uint64][]byte
	cutAt     int  // at so many of them the power fails; 0 for never
	off       bool // and nothing is written any more
	answer    func(offset uint64, data []byte) verdict
	hung      chan struct{} // closed at the first read that is not answered
	conns     []net.Conn
}

// verdict is what becomes of a read.
type verdict int

const (
	answered verdict = iota
	failed           // with an I/O error
	hangs            // and so does every later one
)

// serveDisk serves a file until the test ends. For each read, answer gets the
// bytes to send, which it may change.
func serveDisk(t *testing.T, path string, answer func(offset uint64, data []byte) verdict) *hostDisk {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &hostDisk{socket: filepath.Join(dir, "s"), image: read(t, path), answer: answer, hung: make(chan struct{})}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns = append(d.conns, conn)
			d.mu.Unlock()
			serving.Go(func() {
				if err := d.serve(conn); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					t.Logf("NBD: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		d.release()
		serving.Wait()
		os.RemoveAll(dir)
	})
	return d
}

// release ends the connections: what was not answered fails.
func (d *hostDisk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
}

// isHung reports whether a read was not answered.
func (d *hostDisk) isHung() bool {
	select {
	case <-d.hung:
		return true
	default:
		return false
	}
}

// arguments returns QEMU's, for the guest's first disk.
func (d *hostDisk) arguments() []string { return d.as("virtio-blk-pci,drive=host") }

// as returns QEMU's arguments for a device of that kind.
func (d *hostDisk) as(device string) []string {
	readOnly := ",readonly=on"
	if d.writable {
		readOnly = ""
	}
	return []string{
		"-drive", "if=none,id=host,format=raw" + readOnly + ",file.driver=nbd,file.export=x,file.server.type=unix,file.server.path=" + d.socket,
		"-device", device,
	}
}

const (
	nbdOption      = "IHAVEOPT" // before each option
	nbdOptionReply = 0x3e889045565a9
	nbdRequest     = 0x25609513
	nbdReply       = 0x67446698

	nbdGo          = 7 // NBD_OPT_GO
	nbdInfo        = 3 // NBD_REP_INFO
	nbdAck         = 1 // NBD_REP_ACK
	nbdUnsupported = 1<<31 | 1
	nbdReadOnly    = 1 | 1<<1 // NBD_FLAG_HAS_FLAGS, NBD_FLAG_READ_ONLY
	nbdWritable    = 1 | 1<<2 // NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_FLUSH
	nbdRead        = 0        // NBD_CMD_READ
	nbdWrite       = 1        // NBD_CMD_WRITE
	nbdDisconnect  = 2        // NBD_CMD_DISC
	nbdFlush       = 3        // NBD_CMD_FLUSH
	nbdError       = 5        // NBD_EIO
	nbdInvalid     = 22       // NBD_EINVAL

	nbdSector = 512
)

// message puts numbers of fixed size together.
func message(numbers ...any) []byte {
	var b bytes.Buffer
	for _, n := range numbers {
		if err := binary.Write(&b, binary.BigEndian, n); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func (d *hostDisk) serve(c net.Conn) error {
	defer c.Close()
	if _, err := io.WriteString(c, "NBDMAGIC"+nbdOption+"\x00\x01"); err != nil { // NBD_FLAG_FIXED_NEWSTYLE
		return err
	}
	if _, err := io.CopyN(io.Discard, c, 4); err != nil { // the client's flags
		return err
	}
	for {
		var option struct {
			Magic    [8]byte
			ID, Size uint32
		}
		if err := binary.Read(c, binary.BigEndian, &option); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c, int64(option.Size)); err != nil {
			return err
		}
		if option.ID == nbdGo {
			break
		}
		if _, err := c.Write(message(uint64(nbdOptionReply), option.ID, uint32(nbdUnsupported), uint32(0))); err != nil {
			return err
		}
	}
	flags := uint16(nbdReadOnly)
	if d.writable {
		flags = nbdWritable
	}
	if _, err := c.Write(message(
		uint64(nbdOptionReply), uint32(nbdGo), uint32(nbdInfo), uint32(12), uint16(0), uint64(len(d.image)), flags,
		uint64(nbdOptionReply), uint32(nbdGo), uint32(nbdAck), uint32(0),
	)); err != nil {
		return err
	}
	for {
		var request struct {
			Magic          uint32
			Flags, Command uint16
			Handle, Offset uint64
			Size           uint32
		}
		if err := binary.Read(c, binary.BigEndian, &request); err != nil {
			return err
		}
		end := request.Offset + uint64(request.Size)
		switch {
		case request.Magic != nbdRequest:
			return errors.New("the client lost its way")
		case request.Command == nbdDisconnect:
			return nil
		case request.Command == nbdWrite && d.writable && end <= uint64(len(d.image)):
			if err := d.write(c, request.Offset, end); err != nil {
				return err
			}
			fallthrough
		case request.Command == nbdFlush && d.writable:
			if err := d.flush(request.Command); err != nil {
				return err
			}
			if _, err := c.Write(message(uint32(nbdReply), uint32(0), request.Handle)); err != nil {
				return err
			}
			continue
		case request.Command != nbdRead || end > uint64(len(d.image)):
			if _, err := c.Write(message(uint32(nbdReply), uint32(nbdInvalid), request.Handle)); err != nil {
				return err
			}
			continue
		}
		data := d.read(request.Offset, end)
		var reply []byte
		switch d.decides(request.Offset, data) {
		case answered:
			reply = append(message(uint32(nbdReply), uint32(0), request.Handle), data...)
		case failed:
			reply = message(uint32(nbdReply), uint32(nbdError), request.Handle)
		}
		if _, err := c.Write(reply); err != nil {
			return err
		}
	}
}

func (d *hostDisk) read(from, to uint64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	data := bytes.Clone(d.image[from:to])
	for at := from; d.unflushed != nil && at < to; at += nbdSector {
		copy(data[at-from:], d.unflushed[at/nbdSector])
	}
	return data
}

// write takes what follows a request to write.
func (d *hostDisk) write(r io.Reader, from, to uint64) error {
	data := make([]byte, to-from)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unflushed == nil {
		copy(d.image[from:], data)
		return nil
	}
	if d.off {
		return net.ErrClosed
	}
	for i, sector := range slices.Collect(slices.Chunk(data, nbdSector)) {
		d.unflushed[from/nbdSector+uint64(i)] = sector
	}
	if d.off = d.cutAt > 0 && len(d.unflushed) >= d.cutAt; d.off {
		return net.ErrClosed
	}
	return nil
}

// flush does what a command to flush asks for, and reports whether there is power.
func (d *hostDisk) flush(command uint16) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return net.ErrClosed
	}
	if command == nbdFlush {
		d.keep(func() bool { return true })
	}
	return nil
}

// keep writes those of the sectors that were not flushed, and forgets the others.
func (d *hostDisk) keep(which func() bool) (kept, lost int) {
	for sector, data := range d.unflushed {
		if which() {
			copy(d.image[sector*nbdSector:], data)
			kept++
		} else {
			lost++
		}
	}
	clear(d.unflushed)
	return kept, lost
}

// powerCut ends all service once so many sectors are not flushed, or soon. Of those,
// some are kept.
func (d *hostDisk) powerCut(at int, which func() bool) (kept, lost int) {
	for range 10000 {
		d.mu.Lock()
		d.cutAt = at
		off := d.off
		d.mu.Unlock()
		if off {
			break
		}
		time.Sleep(time.Millisecond)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	return d.keep(which)
}

// powerOn begins again, when what used the disk is gone.
func (d *hostDisk) powerOn() {
	d.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off, d.cutAt = false, 0
	clear(d.unflushed)
}

func (d *hostDisk) decides(offset uint64, data []byte) verdict {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isHung() {
		return hangs
	}
	v := d.answer(offset, data)
	if v == hangs {
		close(d.hung)
	}
	return v
}
