package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Records are numbered from 1, and are of four kinds in turn.
const (
	appended  = iota // to a file
	created          // as a file of their own
	exchanged        // for another one, in a place of a file
	renamed          // over the one before
	kinds
)

const (
	slots    = 61   // places of records that are exchanged
	slotSize = 4096 // bytes
	lifetime = 400  // of a record that is a file of its own, in records
)

// content returns the bytes of a record.
func content(n int) []byte {
	source := rand.NewChaCha8([32]byte{0: byte(n), 1: byte(n >> 8), 2: byte(n >> 16)})
	b := make([]byte, slotSize)
	if n%kinds != exchanged {
		b = make([]byte, 8+source.Uint64()%12000)
	}
	source.Read(b)
	binary.LittleEndian.PutUint64(b, uint64(n))
	return b
}

// records is a folder with records.
type records struct {
	folder string
	log    *os.File
	slots  *os.File
}

func keep(folder string, least int, further bool) error {
	r := records{folder: folder}
	if err := os.MkdirAll(r.path("new"), 0o755); err != nil {
		return err
	}
	var err error
	if r.log, err = os.OpenFile(r.path("log"), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	if r.slots, err = os.OpenFile(r.path("slots"), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	last, err := r.check(least)
	if err != nil {
		fmt.Println("boot-test: LOST:", err)
		return err
	}
	fmt.Printf("boot-test: all records to %d are there, of which %d had to be\n", last, least)
	for n := last + 1; further; n++ {
		if err := r.write(n); err != nil {
			return fmt.Errorf("cannot write record %d: %w", n, err)
		}
		fmt.Printf("boot-test: kept %d\n", n)
	}
	return nil
}

func (r records) path(name string) string { return filepath.Join(r.folder, name) }

func (r records) file(n int) string { return r.path(fmt.Sprint("new/", n)) }

func slot(n int) int64 { return int64(n/kinds%slots) * slotSize }

// write returns when the record can no longer be lost.
func (r records) write(n int) error {
	switch b := content(n); n % kinds {
	case appended:
		_, err := r.log.Write(b)
		return errors.Join(err, r.log.Sync())
	case exchanged:
		_, err := r.slots.WriteAt(b, slot(n))
		return errors.Join(err, r.slots.Sync())
	case created:
		_ = os.Remove(r.file(n - lifetime))
		return errors.Join(writeSynced(r.file(n), b), syncFolder(r.path("new")))
	default:
		next := r.path("next")
		return errors.Join(writeSynced(next, b), os.Rename(next, r.path("current")), syncFolder(r.folder))
	}
}

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// check returns the last record up to which all are there. A record after the least
// one may be there in part: it was not acknowledged.
func (r records) check(least int) (int, error) {
	log, err := os.ReadFile(r.path("log"))
	if err != nil {
		return 0, err
	}
	last, good := 0, 0
	for n := 1; ; n++ {
		there, err := false, error(nil)
		if n%kinds == appended {
			b := content(n)
			if there = bytes.HasPrefix(log[good:], b); there {
				good += len(b)
			}
		} else {
			there, err = r.has(n, least)
		}
		if err != nil && n <= least {
			return 0, fmt.Errorf("record %d of %d: %w", n, least, err)
		}
		if !there {
			break
		}
		last = n
	}
	if last < least {
		return 0, fmt.Errorf("record %d of %d is not there", last+1, least)
	}
	if err := r.log.Truncate(int64(good)); err != nil {
		return 0, err
	}
	_, err = r.log.Seek(int64(good), 0)
	return last, err
}

// has reports whether a record is there, or a later one in its place.
func (r records) has(n, least int) (bool, error) {
	var b []byte
	var err error
	switch n % kinds {
	case created:
		if n <= least+1-lifetime {
			return true, nil // may have been removed
		}
		b, err = os.ReadFile(r.file(n))
	case exchanged:
		b = make([]byte, slotSize)
		_, err = r.slots.ReadAt(b, slot(n))
	case renamed:
		b, err = os.ReadFile(r.path("current"))
	}
	if err != nil || len(b) < 8 {
		return false, err
	}
	found := int(binary.LittleEndian.Uint64(b))
	if found > least+1 || !bytes.Equal(b, content(found)) {
		return false, fmt.Errorf("it has neither its bytes nor those of a later one (%d)", found)
	}
	return found >= n && found%kinds == n%kinds && (n%kinds != created || found == n), nil
}
