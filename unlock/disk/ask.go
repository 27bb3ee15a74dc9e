package disk

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"cocoroot/unlock/gpt"
	"cocoroot/unlock/policy"
)

const (
	// patience is how long a disk that does not answer holds up the choice of
	// another one that has the name.
	patience = 2 * time.Second
	// maxAsking bounds the questions that are open at a time: each holds a
	// thread, and a disk that never answers keeps it.
	maxAsking = 64
)

// answer is what a disk says of itself: the part that the name needs.
type answer struct {
	serial string
	parts  []gpt.Partition
}

// question is a disk that was asked. Each is asked once.
type question struct {
	since  time.Time
	answer atomic.Pointer[answer] // nil: it has not answered
	err    error                  // set with the answer
}

// question returns the question to a disk, a new one if need be, and keeps it
// in open; nil for what is not asked.
func (s *search) question(name string, open map[string]*question) *question {
	if _, err := readLine(s.sys, name, "partition"); err == nil {
		return nil // the whole disk is asked
	}
	if s.want.Kind == policy.ByPARTUUID && len(partitions(s.sys, name)) == 0 {
		s.seen = append(s.seen, name+" (no partitions)")
		return nil // saves a read, and waits for the kernel's own
	}
	sequence, _ := readLine(s.sys, name, "diskseq") // another disk may get the same name
	key := name + " " + sequence
	q := s.asked[key]
	if q == nil {
		if s.asking.Load() == maxAsking {
			return nil // later
		}
		s.asking.Add(1)
		q = &question{since: time.Now()}
		go s.put(q, name)
	}
	open[key] = q
	return q
}

// put asks the disk and wakes the search when it has answered.
func (s *search) put(q *question, name string) {
	var a answer
	defer func() {
		if r := recover(); r != nil { // this is the first process
			q.err = fmt.Errorf("cannot read it: %v", r)
		}
		q.answer.Store(&a)
		s.asking.Add(-1)
		signal(s.wake)
	}()
	a, q.err = s.ask(name)
}

// nodes returns which devices of the disk have the wanted name, and what is
// wrong with the disk, if anything, for an error. pending means that the disk
// may still say that it has the name.
func (q *question) nodes(s *search, name string) (nodes []string, note string, pending bool) {
	a := q.answer.Load()
	if a == nil {
		return nil, " (does not answer)", time.Since(q.since) < patience
	}
	if q.err != nil {
		note = " (" + q.err.Error() + ")"
	}
	if s.want.Kind == policy.BySerial && a.serial == s.want.Name {
		nodes = append(nodes, name)
	}
	for _, p := range a.parts {
		if n, ok := partitions(s.sys, name)[strconv.Itoa(p.Number)]; ok && p.GUID.String() == s.want.Name {
			nodes = append(nodes, n)
		}
	}
	return nodes, note, false
}

// partitions returns the names of a disk's partitions by their number, as the
// kernel shows them.
func partitions(sys fs.FS, disk string) map[string]string {
	entries, err := fs.ReadDir(sys, "class/block/"+disk)
	if err != nil {
		return nil
	}
	found := make(map[string]string)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), disk) {
			continue
		}
		if number, err := readLine(sys, disk, e.Name()+"/partition"); err == nil {
			found[number] = e.Name()
		}
	}
	return found
}

// askDisk reads from the disk what the name needs.
func (s *search) askDisk(name string) (answer, error) {
	if s.want.Kind == policy.BySerial {
		return answer{serial: serial(s.sys, name)}, nil
	}
	size, err := diskSize(s.sys, name)
	if err != nil {
		return answer{}, err
	}
	text, err := readLine(s.sys, name, "queue/logical_block_size")
	var sector uint64
	if err == nil {
		sector, err = strconv.ParseUint(text, 10, 16)
	}
	if err != nil {
		return answer{}, err
	}
	f, err := os.Open("/dev/" + node(name))
	if err != nil {
		return answer{}, err
	}
	defer f.Close()
	parts, err := gpt.Read(f, size, int(sector))
	return answer{parts: parts}, err
}

// serial returns a disk's serial number without its padding, empty for none.
// virtio-blk has it beside the disk (the kernel asks the device for it at each
// read), NVMe at the controller, SCSI in page 0x80 of the vital product data.
func serial(sys fs.FS, name string) string {
	for _, attribute := range []string{"serial", "device/serial"} {
		if text, err := readLine(sys, name, attribute); err == nil {
			return trim(text)
		}
	}
	page, err := fs.ReadFile(sys, "class/block/"+name+"/device/vpd_pg80")
	if err != nil {
		return ""
	}
	return pageSerial(page)
}

// pageSerial returns the serial number in a Unit Serial Number page (SPC-4,
// 7.8.15): one byte of device type, the page's number, the length in two
// bytes, big-endian, and the number in ASCII. The host writes it.
func pageSerial(page []byte) string {
	const head, code = 4, 0x80
	if len(page) < head || page[1] != code {
		return ""
	}
	n := int(binary.BigEndian.Uint16(page[2:]))
	if n > len(page)-head {
		return ""
	}
	return trim(string(page[head : head+n]))
}

// trim takes the padding off: NVMe and SCSI fill up with spaces, some with
// zeros, and some put them in front.
func trim(s string) string { return strings.Trim(s, " \x00") }
