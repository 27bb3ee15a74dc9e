package disk

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/gpt"
	"cocoroot/unlock/policy"
)

const guid = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

// machine returns a sysfs with one disk of each bus.
func machine() fstest.MapFS {
	return fstest.MapFS{
		"class/block/vda/size":                     file("2048\n"),
		"class/block/vda/serial":                   file("root\n"),
		"class/block/vda/uevent":                   file("DEVNAME=vda\nDEVTYPE=disk\n"),
		"class/block/vdb/size":                     file("4096\n"),
		"class/block/vdb/serial":                   file("\n"),
		"class/block/vdb/vdb1/partition":           file("1\n"),
		"class/block/vdb/vdb7/partition":           file("7\n"),
		"class/block/vdb1/size":                    file("1024\n"),
		"class/block/vdb1/partition":               file("1\n"),
		"class/block/vdb1/uevent":                  file("PARTN=1\nPARTNAME=cocoroot-a\n"),
		"class/block/vdb7/size":                    file("512\n"),
		"class/block/vdb7/partition":               file("7\n"),
		"class/block/vdc/size":                     file("many\n"),
		"class/block/cciss!c0d0/size":              file("8\n"),
		"class/block/nvme0n1/size":                 file("16\n"),
		"class/block/nvme0n1/device/serial":        file("vol0123              \n"),
		"class/block/nvme0c0n1/device/serial":      file("vol0123              \n"),
		"class/block/sda/size":                     file("32\n"),
		"class/block/sda/device/vpd_pg80":          file("\x00\x80\x00\x0a  scsi-one"),
		"class/block/sdb/device/vpd_pg80":          file("\x00\x80\x00\x20short"),
		"class/block/vdb/queue/logical_block_size": file("512\n"),
	}
}

func parse(t *testing.T, s string) policy.Disk {
	t.Helper()
	d, err := policy.ParseDisk(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tables answers for vdb: a table with the GUID as partition 7.
func tables(name string) (answer, error) {
	if name != "vdb" {
		return answer{}, errors.New("no table")
	}
	return answer{parts: []gpt.Partition{{Number: 1}, {Number: 7, GUID: efi.MustParse(guid)}}}, nil
}

// nodes returns a /dev with a node for every device that sysfs has but the
// hidden path.
func nodes(sys fs.FS) fstest.MapFS {
	dev := make(fstest.MapFS)
	entries, _ := fs.ReadDir(sys, "class/block")
	for _, e := range entries {
		if e.Name() != "nvme0c0n1" {
			dev[node(e.Name())] = &fstest.MapFile{Mode: fs.ModeDevice}
		}
	}
	return dev
}

// allNodes is a /dev that has every node.
type allNodes struct{ fs.FS }

func (allNodes) Stat(string) (fs.FileInfo, error) { return nil, nil }

// runSearch searches for five seconds at most, of a clock that costs no time.
func runSearch(t *testing.T, sys fs.FS, want string, ask func(string) (answer, error)) (Disk, error) {
	t.Helper()
	var d Disk
	var err error
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s := newSearch(sys, nodes(sys), parse(t, want))
		if ask != nil {
			s.ask = func(name string) (answer, error) { return ask(name) }
		}
		d, err = s.run(ctx)
		cancel()
	})
	return d, err
}

func TestFind(t *testing.T) {
	for _, tc := range []struct {
		want string
		ask  func(string) (answer, error)
		path string
		size uint64
	}{
		{"/dev/vdb", nil, "/dev/vdb", 4096 * 512},
		{"/dev/vdb7", nil, "/dev/vdb7", 512 * 512},
		{"/dev/cciss/c0d0", nil, "/dev/cciss/c0d0", 8 * 512},
		{"serial:root", nil, "/dev/vda", 2048 * 512},
		{"serial:vol0123", nil, "/dev/nvme0n1", 16 * 512}, // its hidden path does not count
		{"serial:scsi-one", nil, "/dev/sda", 32 * 512},
		{"PARTLABEL=cocoroot-a", nil, "/dev/vdb1", 1024 * 512},
		{"PARTUUID=" + strings.ToUpper(guid), tables, "/dev/vdb7", 512 * 512},
	} {
		d, err := runSearch(t, machine(), tc.want, tc.ask)
		if err != nil || d != (Disk{tc.path, tc.size}) {
			t.Errorf("find(%s) = %+v, %v; want %s of %d bytes", tc.want, d, err, tc.path, tc.size)
		}
	}
}

func TestFindAbsent(t *testing.T) {
	for _, s := range []string{"/dev/vdz", "/dev/vda1", "serial:roo", "serial:short", "PARTLABEL=cocoroot",
		"PARTUUID=" + strings.Replace(guid, "a", "b", 1)} {
		if d, err := runSearch(t, machine(), s, nil); !errors.Is(err, ErrAbsent) {
			t.Errorf("find(%s) = %+v, %v; want ErrAbsent", s, d, err)
		}
	}
	if d, err := runSearch(t, fstest.MapFS{}, "/dev/vda", nil); !errors.Is(err, ErrAbsent) {
		t.Errorf("find without devices = %+v, %v; want ErrAbsent", d, err)
	}
}

// A partition that the table has and the kernel does not show is not there.
func TestFindWithoutNode(t *testing.T) {
	sys := machine()
	delete(sys, "class/block/vdb/vdb7/partition")
	if d, err := runSearch(t, sys, "PARTUUID="+guid, tables); !errors.Is(err, ErrAbsent) {
		t.Errorf("find = %+v, %v; want ErrAbsent", d, err)
	}
}

// The error says which disks there are, and what is the matter with them.
func TestAbsentNamesDisks(t *testing.T) {
	sys := machine()
	sys["class/block/vde/vde1/partition"] = file("1\n")
	_, err := runSearch(t, sys, "PARTUUID="+strings.Replace(guid, "a", "b", 1), tables)
	for _, want := range []string{"vda (no partitions)", "vdb,", "vde (no table)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want it to contain %q", err, want)
		}
	}
}

func TestFindAmbiguous(t *testing.T) {
	sys := machine()
	sys["class/block/sdc/device/serial"] = file(" root ")
	sys["class/block/vdb7/uevent"] = file("PARTNAME=cocoroot-a\n")
	twice := func(name string) (answer, error) {
		a, err := tables(name)
		a.parts = append(a.parts, gpt.Partition{Number: 1, GUID: efi.MustParse(guid)})
		return a, err
	}
	for _, s := range []string{"serial:root", "PARTLABEL=cocoroot-a", "PARTUUID=" + guid} {
		if d, err := runSearch(t, sys, s, map[bool]func(string) (answer, error){true: twice}[strings.Contains(s, "UUID")]); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("find(%s) = %+v, %v; want ErrAmbiguous", s, d, err)
		}
	}
}

func TestFindBadSize(t *testing.T) {
	if _, err := runSearch(t, machine(), "/dev/vdc", nil); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("find with a size that is not a number: %v; want an error of its own", err)
	}
}

// never is how long a disk takes that does not answer. A test sleeps longer
// at its end, for its goroutines have to end.
const never = time.Hour

// A disk that does not answer holds up another one for a moment only, is
// found when it answers, and does not hold up the end.
func TestSilentDisk(t *testing.T) {
	for _, tc := range []struct {
		name        string
		want        string
		slow        string
		takes       time.Duration
		path        string
		err         error
		least, most time.Duration
	}{
		{"another one is wanted", "serial:one", "vdb", never, "/dev/vda", nil, patience, patience + lookAnyway},
		{"answers in time", "serial:two", "vdb", 3 * time.Second, "/dev/vdb", nil, 3 * time.Second, 3 * time.Second},
		{"answers too late", "serial:two", "vdb", never, "", ErrAbsent, 5 * time.Second, 5 * time.Second},
		{"has the same name", "serial:one", "vdc", time.Second, "", ErrAmbiguous, time.Second, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				serials := map[string]string{"vda": "one", "vdb": "two"}
				serials[tc.slow] = cmp.Or(serials[tc.slow], "one")
				sys := make(fstest.MapFS)
				for name := range serials {
					sys["class/block/"+name+"/size"] = file("8\n")
				}
				s := newSearch(sys, allNodes{}, parse(t, tc.want))
				s.ask = func(name string) (answer, error) {
					if name == tc.slow {
						time.Sleep(tc.takes)
					}
					return answer{serial: serials[name]}, nil
				}
				began := time.Now()
				d, err := s.run(ctx)
				took := time.Since(began)
				if !errors.Is(err, tc.err) || d.Path != tc.path {
					t.Errorf("run = %+v, %v; want %q, %v", d, err, tc.path, tc.err)
				}
				if took < tc.least || took > tc.most {
					t.Errorf("run took %v; want %v to %v", took, tc.least, tc.most)
				}
				if tc.err == ErrAbsent && !strings.Contains(err.Error(), "vdb (does not answer)") {
					t.Errorf("the error %q does not name the disk that is silent", err)
				}
				time.Sleep(2 * never)
			})
		})
	}
}

// A crash while a disk is read stays with that disk.
func TestAskCrashes(t *testing.T) {
	d, err := runSearch(t, machine(), "serial:root", func(name string) (answer, error) {
		if name == "vdb" {
			panic("bad bytes")
		}
		return answer{serial: map[string]string{"vda": "root"}[name]}, nil
	})
	if err != nil || d.Path != "/dev/vda" {
		t.Errorf("run = %+v, %v; want /dev/vda", d, err)
	}
}

// However many disks never answer, maxAsking threads wait for them.
func TestAskingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := make(fstest.MapFS)
		for i := range 3 * maxAsking {
			sys["class/block/vd"+strings.Repeat("x", i)+"/size"] = file("8")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s := newSearch(sys, allNodes{}, parse(t, "serial:root"))
		var open atomic.Int32
		s.ask = func(string) (answer, error) {
			open.Add(1)
			time.Sleep(never)
			return answer{}, nil
		}
		if _, err := s.run(ctx); !errors.Is(err, ErrAbsent) {
			t.Errorf("run: %v; want ErrAbsent", err)
		}
		if n := open.Load(); n != maxAsking {
			t.Errorf("%d disks asked; want %d", n, maxAsking)
		}
		time.Sleep(2 * never)
	})
}

// counting counts how often the devices are listed.
type counting struct {
	fstest.MapFS
	looks int
	late  func(looks int) // may add a disk
}

func (c *counting) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "class/block" {
		c.looks++
		c.late(c.looks)
	}
	return c.MapFS.ReadDir(name)
}

// The search sleeps: it looks once at first, then once a second and at events.
func TestDoesNotPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c := &counting{MapFS: machine(), late: func(int) {}}
		s := newSearch(c, allNodes{}, parse(t, "/dev/vdz"))
		if _, err := s.run(ctx); !errors.Is(err, ErrAbsent) {
			t.Errorf("run: %v; want ErrAbsent", err)
		}
		if c.looks < 10 || c.looks > 12 {
			t.Errorf("%d looks in %v; want one at first and one a second", c.looks, limit)
		}
	})
}

func TestWakesAtEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = 1300 * time.Millisecond
		began := time.Now()
		c := &counting{MapFS: machine()}
		c.late = func(int) {
			if time.Since(began) >= after {
				c.MapFS["class/block/vdz/size"] = file("8\n")
			}
		}
		s := newSearch(c, allNodes{}, parse(t, "/dev/vdz"))
		time.AfterFunc(after, func() { signal(s.wake) })
		d, err := s.run(t.Context())
		if err != nil || d.Path != "/dev/vdz" {
			t.Errorf("run = %+v, %v; want /dev/vdz", d, err)
		}
		if took := time.Since(began); took != after {
			t.Errorf("found after %v; want %v, the time of the event", took, after)
		}
	})
}

// The kernel shows a device before its attributes and its node are there.
func TestDeviceHalfThere(t *testing.T) {
	for _, want := range []string{"/dev/vda", "serial:root", "PARTLABEL=cocoroot-a"} {
		synctest.Test(t, func(t *testing.T) {
			sys := fstest.MapFS{"class/block/vda/diskseq": file("1\n")}
			dev := make(fstest.MapFS)
			c := &counting{MapFS: sys, late: func(looks int) {
				if looks == 3 {
					sys["class/block/vda/size"] = file("8\n")
					sys["class/block/vda/serial"] = file("root\n")
					sys["class/block/vda/uevent"] = file("PARTNAME=cocoroot-a\n")
					dev["vda"] = &fstest.MapFile{Mode: fs.ModeDevice}
				}
			}}
			s := newSearch(c, dev, parse(t, want))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if d, err := s.run(ctx); err != nil || d != (Disk{"/dev/vda", 8 * 512}) {
				t.Errorf("find(%s) = %+v, %v; want /dev/vda of 4096 bytes", want, d, err)
			}
		})
	}
}

// A disk that takes the name of one that is gone is asked for itself.
func TestDiskReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := fstest.MapFS{"class/block/vda/size": file("8\n"), "class/block/vda/diskseq": file("1\n")}
		serial := "old"
		c := &counting{MapFS: sys, late: func(looks int) {
			if looks == 3 {
				serial = "new"
				sys["class/block/vda/diskseq"] = file("2\n")
			}
		}}
		s := newSearch(c, allNodes{}, parse(t, "serial:new"))
		var asked []string
		s.ask = func(string) (answer, error) {
			asked = append(asked, serial)
			return answer{serial: serial}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if d, err := s.run(ctx); err != nil || d.Path != "/dev/vda" {
			t.Errorf("run = %+v, %v; want /dev/vda", d, err)
		}
		if !slices.Equal(asked, []string{"old", "new"}) || len(s.asked) != 1 {
			t.Errorf("asked %v, %d kept; want old and new, one kept", asked, len(s.asked))
		}
	})
}

func TestForward(t *testing.T) {
	events, err := listen()
	if err != nil {
		oracle.Missing(t, "%v", err)
	}
	ended := make(chan struct{})
	go func() {
		forward(events, make(chan struct{}, 1))
		close(ended)
	}()
	events.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("forward did not end with its socket")
	}
}

func TestCheckSize(t *testing.T) {
	if _, err := check(Disk{"/dev/null", 100}, 101); !errors.Is(err, ErrSmall) {
		t.Errorf("check(100 bytes, need 101) = %v; want ErrSmall", err)
	}
	if d, err := check(Disk{"/dev/null", 101}, 101); err != nil || d.Size != 101 {
		t.Errorf("check(101 bytes, need 101) = %v, %v; want the disk", d, err)
	}
}

var pageSeeds = []struct{ page, want string }{
	{"\x00\x80\x00\x04abcd", "abcd"},
	{"\x00\x80\x00\x08  abcd\x00 more", "abcd"},
	{"\x00\x80\x00\x00", ""},
	{"\x00\x80\x00\x05abcd", ""}, // cut short
	{"\x00\x83\x00\x04abcd", ""}, // another page
	{"\x00\x80\xff", ""},
	{"", ""},
}

func TestFuzzPageSerialSeeds(t *testing.T) {
	for _, s := range pageSeeds {
		if got := pageSerial([]byte(s.page)); got != s.want {
			t.Errorf("pageSerial(%q) = %q; want %q", s.page, got, s.want)
		}
	}
}

// FuzzPageSerial reads what a host may write into a SCSI disk's page; the
// first seeds reach the number, as TestFuzzPageSerialSeeds shows.
func FuzzPageSerial(f *testing.F) {
	for _, s := range pageSeeds {
		f.Add([]byte(s.page))
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		if got := pageSerial(page); !strings.Contains(string(page), got) || got != trim(got) {
			t.Errorf("pageSerial(%q) = %q; want a part of it without padding", page, got)
		}
	})
}
