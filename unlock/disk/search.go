package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"cocoroot/unlock/policy"
)

const (
	// sectorSize is the unit of /sys/class/block/*/size in bytes, whatever
	// the disk's own sector is.
	sectorSize = 512
	// maxListed is how many of the disks that were seen an error names.
	maxListed = 8
)

// search is one search for a disk.
type search struct {
	sys   fs.FS // sysfs
	dev   fs.FS // /dev
	want  policy.Disk
	ask   func(name string) (answer, error) // asks a disk; may block forever
	asked map[string]*question              // by disk and its sequence number
	wake  chan struct{}                     // something may have changed
	seen  []string                          // the devices of the last look, for the error

	asking atomic.Int32 // the questions that are still open
}

func newSearch(sys, dev fs.FS, want policy.Disk) *search {
	s := &search{sys: sys, dev: dev, want: want, asked: make(map[string]*question), wake: make(chan struct{}, 1)}
	s.ask = s.askDisk
	return s
}

// run looks until there is exactly one disk with the name, and every other
// one that could have it has answered or was given the time to.
func (s *search) run(ctx context.Context) (Disk, error) {
	tick := time.NewTicker(lookAnyway)
	defer tick.Stop()
	for {
		ended := ctx.Err() != nil
		nodes, settled, err := s.look()
		switch {
		case err != nil:
			return Disk{}, err
		case len(nodes) > 1:
			return Disk{}, fmt.Errorf("cannot choose between %s for %s: %w", strings.Join(nodes, " and "), s.want, ErrAmbiguous)
		case len(nodes) == 1 && (settled || ended):
			return s.disk(nodes[0])
		case ended:
			return Disk{}, s.absent()
		}
		select {
		case <-s.wake:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (s *search) absent() error {
	among := ""
	if len(s.seen) > 0 {
		among = " among " + strings.Join(s.seen[:min(len(s.seen), maxListed)], ", ")
	}
	return fmt.Errorf("cannot find %s%s: %w", s.want, among, ErrAbsent)
}

// look goes through the block devices that sysfs shows now and returns those
// with the name. It is not settled while a disk that may have the name has
// not answered yet.
func (s *search) look() (nodes []string, settled bool, err error) {
	entries, err := fs.ReadDir(s.sys, "class/block")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("cannot list the block devices: %w", err)
	}
	settled, s.seen = true, nil
	open := make(map[string]*question, len(entries)) // disks that are gone are forgotten
	for _, e := range entries {
		name, note := e.Name(), ""
		// The node comes last, after all that sysfs says of a device. Some
		// have none, such as one path of a multipath NVMe disk.
		if _, err := fs.Stat(s.dev, node(name)); err != nil {
			continue
		}
		switch s.want.Kind {
		case policy.ByPath:
			if node(name) == s.want.Name {
				nodes = append(nodes, name)
			}
		case policy.ByPARTLABEL:
			if uevent(s.sys, name, "PARTNAME") == s.want.Name {
				nodes = append(nodes, name)
			}
		default:
			q := s.question(name, open)
			if q == nil {
				continue
			}
			found, problem, pending := q.nodes(s, name)
			nodes = append(nodes, found...)
			note, settled = problem, settled && !pending
		}
		s.seen = append(s.seen, name+note)
	}
	s.asked = open
	return nodes, settled, nil
}

// disk returns what sysfs says of a device.
func (s *search) disk(name string) (Disk, error) {
	size, err := diskSize(s.sys, name)
	return Disk{Path: "/dev/" + node(name), Size: size}, err
}

// node returns a device's name under /dev: where sysfs has an exclamation
// mark, there is a folder (cciss!c0d0).
func node(name string) string { return strings.ReplaceAll(name, "!", "/") }

// diskSize returns the size of a disk or partition in bytes, less than 2^63.
func diskSize(sys fs.FS, name string) (uint64, error) {
	text, err := readLine(sys, name, "size")
	if err != nil {
		return 0, fmt.Errorf("cannot read the size of %s: %w", name, err)
	}
	n, err := strconv.ParseUint(text, 10, 54)
	if err != nil {
		return 0, fmt.Errorf("cannot read the size of %s: %w", name, err)
	}
	return n * sectorSize, nil
}

// uevent returns a value of a device's uevent file. The kernel reads the
// partition's name from the GPT; Linux 6.12 does not show its GUID here.
func uevent(sys fs.FS, name, key string) string {
	text, err := fs.ReadFile(sys, "class/block/"+name+"/uevent")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimSuffix(value, "\n")
		}
	}
	return ""
}

func readLine(sys fs.FS, name, attribute string) (string, error) {
	text, err := fs.ReadFile(sys, "class/block/"+name+"/"+attribute)
	return strings.TrimSuffix(string(text), "\n"), err
}
