package gpt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/gpt"
)

var (
	first  = efi.MustParse("aaaaaaaa-1111-2222-3333-444444444444")
	second = efi.MustParse("bbbbbbbb-1111-2222-3333-444444444444")
)

// inTable is what Read returns of disk(sector).
func inTable(sector int) []gpt.Partition {
	mib := uint64(start / sector)
	return []gpt.Partition{
		{1, first, linuxData, mib, mib + 4999/uint64(sector), "one"},
		{7, second, linuxData, 2 * mib, 2*mib + 4095/uint64(sector), longName},
	}
}

// longName fills its field, which then has no zero at its end.
const longName = "thirty-six_units_with_one_outside_:é"

func disk(sector int) []byte {
	return newDisk(sector,
		part{1, first, "one", make([]byte, 5000)},
		part{7, second, longName, make([]byte, 4096)})
}

func TestRead(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		d := disk(sector)
		for name, damage := range map[string]func(){
			"intact":          func() {},
			"primary entries": func() { d[2*sector+16] ^= 1 },
			"primary header":  func() { d[sector+60] ^= 1 },
			"primary gone":    func() { clear(d[:4*sector]) },
		} {
			d = disk(sector)
			damage()
			parts, err := gpt.Read(bytes.NewReader(d), uint64(len(d)), sector)
			if err != nil || !slices.Equal(parts, inTable(sector)) {
				t.Errorf("%s, %d: Read = %v, %v; want %v", name, sector, parts, err, inTable(sector))
			}
		}
	}
}

// Each fault stands in both tables, whose checksums are right again: of header
// and entries, and of the header only.
func TestReadRefuses(t *testing.T) {
	const sector = 512
	le := binary.LittleEndian
	for name, fault := range map[string]func(h []byte){
		"signature":          func(h []byte) { h[0] = 'e' },
		"header too small":   func(h []byte) { le.PutUint32(h[12:], 91) },
		"header over sector": func(h []byte) { le.PutUint32(h[12:], sector+1) },
		"header of 2^32-1":   func(h []byte) { le.PutUint32(h[12:], 1<<32-1) },
		"other place":        func(h []byte) { le.PutUint64(h[24:], 5) },
		"no entries":         func(h []byte) { le.PutUint32(h[80:], 0) },
		"too many entries":   func(h []byte) { le.PutUint32(h[80:], 1025) },
		"entries of 256":     func(h []byte) { le.PutUint32(h[84:], 256); le.PutUint32(h[80:], 64) },
		"entries of 0":       func(h []byte) { le.PutUint32(h[84:], 0) },
		"entries after disk": func(h []byte) { le.PutUint64(h[72:], 1<<40) },
		"entries at 2^64-1":  func(h []byte) { le.PutUint64(h[72:], 1<<64-1) },
		"entries over end":   func(h []byte) { le.PutUint64(h[72:], uint64(len(disk(sector))/sector-31)) },
	} {
		for _, sum := range []func([]byte, int){sumBoth, sumHeaders} {
			d := disk(sector)
			fault(d[sector : 2*sector])
			fault(d[len(d)-sector:])
			sum(d, sector)
			if parts, err := gpt.Read(bytes.NewReader(d), uint64(len(d)), sector); !errors.Is(err, gpt.ErrTable) {
				t.Errorf("%s: Read = %v, %v; want errTable", name, parts, err)
			}
		}
	}
	d := disk(sector)
	d[sector+60] ^= 1
	d[len(d)-sector+60] ^= 1
	if parts, err := gpt.Read(bytes.NewReader(d), uint64(len(d)), sector); !errors.Is(err, gpt.ErrTable) {
		t.Errorf("wrong header checksums: Read = %v, %v; want errTable", parts, err)
	}
	for _, tc := range []struct {
		size   int
		sector int
	}{{len(d), 0}, {len(d), 256}, {len(d), 513}, {len(d), 8192}, {len(d), -512}, {0, sector}, {2 * sector, sector}} {
		if parts, err := gpt.Read(bytes.NewReader(d), uint64(tc.size), tc.sector); !errors.Is(err, gpt.ErrTable) {
			t.Errorf("Read(%d bytes, sectors of %d) = %v, %v; want errTable", tc.size, tc.sector, parts, err)
		}
	}
}

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestReadError(t *testing.T) {
	if _, err := gpt.Read(brokenDisk{}, 1<<30, 512); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, gpt.ErrTable) {
		t.Errorf("Read of a disk that fails = %v; want errTable and its error", err)
	}
}

// Both ways: fdisk reads the tests' tables, and Read reads fdisk's.
func TestFdisk(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8") // a name with é is printed as it is
	for _, sector := range []int{512, 4096} {
		ours := filepath.Join(t.TempDir(), "ours")
		if err := os.WriteFile(ours, disk(sector), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := fdiskList(t, ours, sector); !slices.Equal(got, inTable(sector)) {
			t.Errorf("fdisk sees %v in sectors of %d bytes; want %v", got, sector, inTable(sector))
		}

		theirs := filepath.Join(t.TempDir(), "theirs")
		if err := os.WriteFile(theirs, make([]byte, 16<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(oracle.Tool(t, "fdisk"), "-b", strconv.Itoa(sector), theirs)
		cmd.Stdin = strings.NewReader("g\nn\n1\n\n+1M\nn\n7\n\n+2M\nw\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("fdisk: %v\n%s", err, out)
		}
		f, err := os.Open(theirs)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		parts, err := gpt.Read(f, 16<<20, sector)
		if listed := fdiskList(t, theirs, sector); err != nil || len(parts) != 2 || !slices.Equal(parts, listed) {
			t.Errorf("Read of fdisk's = %v, %v; want %v", parts, err, listed)
		}
	}
}

// fdiskList returns what fdisk sees on a disk. It must have nothing to say
// about the table's state.
func fdiskList(t *testing.T, path string, sector int) []gpt.Partition {
	t.Helper()
	out := oracle.Run(t, oracle.Tool(t, "fdisk"), "-b", strconv.Itoa(sector), "-l", "-o", "Device,UUID,Type-UUID,Start,End,Name", path)
	if strings.Contains(out, "corrupt") || strings.Contains(out, "mismatch") {
		t.Errorf("fdisk: %s", out)
	}
	var parts []gpt.Partition
	for line := range strings.Lines(out) {
		rest, ok := strings.CutPrefix(line, path)
		if f := append(strings.Fields(rest), ""); ok && len(f) >= 6 {
			n, err := strconv.Atoi(f[0])
			from, errFrom := strconv.ParseUint(f[3], 10, 64)
			to, errTo := strconv.ParseUint(f[4], 10, 64)
			if err := errors.Join(err, errFrom, errTo); err != nil {
				t.Fatal(err)
			}
			parts = append(parts, gpt.Partition{Number: n, GUID: efi.MustParse(f[1]), Type: efi.MustParse(f[2]), First: from, Last: to, Name: f[5]})
		}
	}
	return parts
}

// tableOf returns the primary header and its entries, cut down to eight, for
// the fuzzer: its inputs have to be small.
func tableOf(sector int) (head, table []byte) {
	const entries = 8
	d := disk(sector)
	head, table = d[sector:][:92], d[2*sector:][:entries*128]
	binary.LittleEndian.PutUint32(head[80:], entries)
	return head, table
}

// diskSize is the size of the fuzzer's disks, bytes.
const diskSize = 16 << 10

// backupOf returns the header as it stands in the last sector.
func backupOf(head []byte, sector int) []byte {
	b := bytes.Clone(head)
	binary.LittleEndian.PutUint64(b[24:], uint64(diskSize/sector-1))
	return b
}

// diskOf puts a header into the second or the last sector of a disk, and
// entries into the third; sum corrects the checksums.
func diskOf(head, table []byte, sector int, backup, sum bool) []byte {
	d := make([]byte, diskSize)
	at := sector
	if backup {
		at = len(d) - sector
	}
	copy(d[at:], head)
	copy(d[2*sector:len(d)-sector], table)
	if sum {
		sumBoth(d, sector)
	}
	return d
}

func sectorOf(large bool) int {
	if large {
		return 4096
	}
	return 512
}

// FuzzRead corrects the checksums when sum is set, so that what is changed
// after them is looked at.
func FuzzRead(f *testing.F) {
	for _, large := range []bool{false, true} {
		head, table := tableOf(sectorOf(large))
		f.Add(head, table, large, false, true)
		f.Add(head, table, large, false, false)
		f.Add(backupOf(head, sectorOf(large)), table, large, true, true)
	}
	f.Fuzz(func(t *testing.T, head, table []byte, large, backup, sum bool) {
		sector := sectorOf(large)
		d := diskOf(head, table, sector, backup, sum)
		parts, err := gpt.Read(bytes.NewReader(d), uint64(len(d)), sector)
		if err != nil && (!errors.Is(err, gpt.ErrTable) || parts != nil) {
			t.Errorf("Read = %v, %v; want only errTable", parts, err)
		}
		for i, p := range parts {
			if p.Number < 1 || p.Number > 1024 || i > 0 && p.Number <= parts[i-1].Number {
				t.Errorf("Read = %v; want numbers from 1 to 1024 in order", parts)
			}
		}
	})
}

// The seeds with corrected checksums are read to the end.
func TestFuzzReadSeeds(t *testing.T) {
	for _, large := range []bool{false, true} {
		for _, backup := range []bool{false, true} {
			sector := sectorOf(large)
			head, table := tableOf(sector)
			if backup {
				head = backupOf(head, sector)
			}
			d := diskOf(head, table, sector, backup, true)
			if parts, err := gpt.Read(bytes.NewReader(d), uint64(len(d)), sector); err != nil || !slices.Equal(parts, inTable(sector)) {
				t.Errorf("sectors of %d, backup %t: Read = %v, %v; want %v", sector, backup, parts, err, inTable(sector))
			}
		}
	}
}
