package state

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/disk"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/volume"
)

// Plan is what is to be done with a state whose header was checked. It has nothing
// of the key, which waits in the kernel's keyring.
type Plan struct {
	Create bool          `json:"create"` // there is no header, and the owner wants one
	Layout volume.Layout `json:"layout"`
	Header []byte        `json:"header"` // what both copies must be
	Has    [2]bool       `json:"has"`    // which copies are that already
	Floor  uint64        `json:"floor"`  // the lowest generation that is not refused
}

// Prepare reads the header of each state, whose disks are in the same order, and
// puts the keys of the blocks into the kernel's keyring. It is for the child that
// unseals: disks hold what the host wants, and secret is the entry of the keys.
func Prepare(secret []byte, states []policy.State, disks []disk.Disk, orders Orders) ([]Plan, error) {
	if len(secret) < MinSecret {
		return nil, fatal.Errorf(fatal.StateSecret, "the entry of the state key has %d bytes, fewer than %d; make one with cocoroot state new", len(secret), MinSecret)
	}
	var plans []Plan
	for i, s := range states {
		p, err := prepare(secret, s.Name, disks[i], orders[s.Name])
		if err != nil {
			return nil, fatal.Errorf(fatal.CodeOf(err, fatal.StateDisk), "cannot use the state %s on %s: %w", s.Name, disks[i].Path, err)
		}
		plans = append(plans, p)
	}
	return plans, nil
}

func prepare(secret []byte, name string, d disk.Disk, o Order) (Plan, error) {
	if d.Size <= AreaStart {
		return Plan{}, fatal.Errorf(fatal.StateSmall, "it has %d bytes, too few for any state", d.Size)
	}
	blocks, err := readCopies(d.Path)
	if err != nil {
		return Plan{}, err
	}
	p, h, err := plan(secret, name, d.Size, blocks, o)
	if err != nil {
		return Plan{}, err
	}
	key := h.volumeKey(secret)
	defer clear(key)
	if _, err := unix.AddKey(keyType, description(name), key, keyring); err != nil {
		return Plan{}, fatal.Errorf(fatal.StateTable, "the kernel does not take the key: %w", err)
	}
	return p, nil
}

// plan decides what becomes of a disk of size bytes with these two blocks in the
// places of the header.
func plan(secret []byte, name string, size uint64, blocks [2][]byte, o Order) (Plan, Header, error) {
	key := headerKey(secret, name)
	defer clear(key)
	h, has, err := choose(blocks, key)
	create := errors.Is(err, errMAC) && o.Create
	switch {
	case create:
		h = Header{Name: name, Sections: volume.JournalSections(size)}
		rand.Read(h.Salt[:]) // never fails
	case errors.Is(err, errMAC) && isZero(blocks[0]) && isZero(blocks[1]):
		return Plan{}, h, fatal.Errorf(fatal.StateMissing, "there is none on it; to have it made, release the secrets with --state-create %s", name)
	case err != nil:
		return Plan{}, h, fatal.Errorf(fatal.StateHeader, "%w; attach the disk on which the state was created, and release the key with which it was", err)
	case h.Name != name: // the key of its HMAC is of the name, so this is ours
		return Plan{}, h, fatal.Errorf(fatal.StateHeader, "%w", errVersion)
	}
	return Plan{Create: create, Layout: h.layout(), Header: h.seal(key), Has: has, Floor: o.Floor}, h, nil
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// readCopies reads the two places of the header, past the page cache.
func readCopies(path string) (blocks [2][]byte, err error) {
	f, _, err := volume.OpenDisk(path, unix.O_DIRECT)
	if err != nil {
		return blocks, err
	}
	defer f.Close()
	for i, at := range copies {
		blocks[i] = volume.NewBlock()
		if _, err := f.ReadAt(blocks[i], at); err != nil {
			return blocks, fmt.Errorf("cannot read its header: %w", err)
		}
	}
	return blocks, nil
}

// writeCopies writes the copies of the header that are not on the disk yet. When it
// returns, they have reached the disk.
func (p Plan) writeCopies(path string) error {
	if p.Has == [2]bool{true, true} {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_SYNC|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	block := volume.NewBlock()
	if copy(block, p.Header) != HeaderSize {
		return io.ErrShortBuffer
	}
	for i, at := range copies {
		if p.Has[i] {
			continue
		}
		if _, err := f.WriteAt(block, at); err != nil {
			return fmt.Errorf("cannot write its header: %w", err)
		}
	}
	return nil
}
