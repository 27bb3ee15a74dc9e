// Package volume makes a disk of the host's into one that the guest can write:
// dm-crypt with an authenticated cipher over dm-integrity, and btrfs on it.
//
//	btrfs           refuses blocks of the past: each points to the next with a generation
//	dm-crypt        authenc(hmac(sha256),xts(aes)); a block of another key or place is an I/O error
//	dm-integrity    keeps the tags, with a journal or without
//	dm-linear       the superblock from memory, the rest from the disk
//	two loop devices
//
// The superblock of dm-integrity decides what the kernel does with the rest of
// the disk, and nothing authenticates it. So it lies in the guest's memory,
// composed from the layout and the disk's size, and the disk has none.
//
// dm-crypt decrypts where it reads to, block by block. When the host fails a
// block, those before it hold plaintext that counts as not read, and the next
// read would hand it to the disk's driver, which copies what the destination
// holds to where the host sees it; so would a read past the page cache
// (O_DIRECT) from any disk. The loop device under the mapping has a page cache
// of its own, for ciphertext: into it, and nowhere else, the disk reads.
//
// Not protected: which blocks are written and when, a return to the disk as it
// was as a whole, and that there is a disk.
package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"cocoroot/unlock/dm"
)

// KeySize is the size of a volume's key in bytes: two AES keys for XTS, then
// the one of the HMAC.
const KeySize = 96

// errSuperblock means that the kernel has laid out the disk in another way.
var errSuperblock = errors.New("the kernel has laid out the disk in another way than expected")

// Volume is a disk and what it is mapped to.
type Volume struct {
	Name   string // of the mapped device; what is below has it with a suffix
	Disk   string // path of the device
	Key    string // of the kernel's keyrings: "logon:DESCRIPTION" or "encrypted:DESCRIPTION"
	Layout Layout
}

// Names of what lies below.
func (v Volume) integrityName() string { return v.Name + ".integrity" }
func (v Volume) linearName() string    { return v.Name + ".disk" }

// Create makes the disk an empty volume, whatever it holds, and maps it: with
// a file system that has a fresh identity, and takes all of it after Grow.
func (v Volume) Create() error {
	err := v.activate(true)
	if err == nil {
		err = v.format()
	}
	if err != nil {
		_ = v.Remove()
		return fmt.Errorf("cannot make a volume of %s: %w", v.Disk, err)
	}
	return nil
}

// Open maps the disk. Nothing of what it holds has been looked at.
func (v Volume) Open() error {
	if err := v.activate(false); err != nil {
		_ = v.Remove()
		return fmt.Errorf("cannot open the volume on %s: %w", v.Disk, err)
	}
	return nil
}

// Path returns the node of the mapped device.
func (v Volume) Path() (string, error) { return dm.Path(v.Name) }

// activate stacks the devices. With fresh dm-integrity makes the journal anew.
func (v Volume) activate(fresh bool) error {
	disk, size, err := OpenDisk(v.Disk, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	a, err := v.Layout.area(size)
	if err != nil {
		return err
	}
	superblock, err := memory(v.linearName(), superblockSectors*sectorSize)
	if err != nil {
		return err
	}
	defer superblock.Close()
	want := v.Layout.superblock(a)
	if !fresh {
		if _, err := superblock.WriteAt(want, 0); err != nil {
			return err
		}
	}
	if err := v.linear(superblock, disk, a); err != nil {
		return err
	}
	if err := v.integrity(a); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := superblock.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: %x", errSuperblock, got[:32])
	}
	return v.crypt(a)
}

// memory returns a file of so many zeros in the guest's memory.
func memory(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return f, nil
}

// linear puts the superblock before the disk's part of the volume, in place
// of its first block.
func (v Volume) linear(superblock, disk *os.File, a area) error {
	const first = superblockSectors * sectorSize
	front, err := attach(superblock, 0, first)
	if err != nil {
		return err
	}
	defer front.Close()
	back, err := attach(disk, v.Layout.Start+first, (a.size-superblockSectors)*sectorSize)
	if err != nil {
		return err
	}
	defer back.Close()
	return create(v.linearName(),
		devmapper.LinearTable{Length: first, BackendDevice: front.Name()},
		devmapper.LinearTable{Start: first, Length: (a.size - superblockSectors) * sectorSize, BackendDevice: back.Name()})
}

func (v Volume) integrity(a area) error {
	below, err := dm.Path(v.linearName())
	if err != nil {
		return err
	}
	mode := "D"
	if v.Layout.Journal {
		mode = "J"
	}
	return create(v.integrityName(), devmapper.IntegrityTable{
		Length:  a.data * sectorSize,
		Device:  below,
		TagSize: v.Layout.tagSize(),
		Mode:    mode,
		Features: []string{
			fmt.Sprintf("block_size:%d", BlockSize),
			fmt.Sprintf("interleave_sectors:%d", interleaveSectors),
			fmt.Sprintf("journal_sectors:%d", a.initial-superblockSectors),
			"fix_padding",
		},
	})
}

func (v Volume) crypt(a area) error {
	below, err := dm.Path(v.integrityName())
	if err != nil {
		return err
	}
	return create(v.Name, devmapper.CryptTable{
		Length:        a.data * sectorSize,
		BackendDevice: below,
		Encryption:    "capi:authenc(hmac(sha256),xts(aes))-plain64",
		KeyID:         fmt.Sprintf(":%d:%s", KeySize, v.Key),
		Flags:         []string{fmt.Sprintf("integrity:%d:aead", macSize)},
		SectorSize:    BlockSize,
	})
}

// create maps tables under a name that no device has.
func create(name string, tables ...devmapper.Table) error {
	if err := devmapper.CreateAndLoad(name, "CRYPT-COCOROOT-"+name, 0, tables...); err != nil {
		return fmt.Errorf("cannot map %s: %w", name, err)
	}
	return nil
}

// Remove wipes the key and removes the mappings. What is mounted keeps the
// mapping, but not the key: reads from it wait forever.
func (v Volume) Remove() error {
	if _, err := v.Path(); err == nil {
		if err := dm.WipeKey(v.Name); err != nil {
			return err
		}
	}
	for _, name := range []string{v.Name, v.integrityName(), v.linearName()} {
		if err := devmapper.Remove(name); err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("cannot remove the mapping %s: %w", name, err)
		}
	}
	return nil
}
