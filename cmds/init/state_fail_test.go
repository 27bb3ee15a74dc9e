package main_test

import (
	"bytes"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret/table"
	"cocoroot/unlock/state"
)

// without takes an entry away.
func (g *guest) without(guid efi.GUID) {
	g.entries = slices.DeleteFunc(g.entries, func(e table.Entry) bool { return e.GUID == guid })
}

// replace gives an entry another content.
func (g *guest) replace(t *testing.T, guid efi.GUID, data []byte) {
	g.without(guid)
	g.entries = append(g.entries, entry(t, guid, data))
}

// overwrite changes the first disk in a part.
func overwrite(at, n int64, with func(b []byte)) func(t *testing.T, g *guest) {
	return func(t *testing.T, g *guest) {
		b := readAt(t, g.disks[0].Path, at, int(n))
		with(b)
		writeAt(t, g.disks[0].Path, at, b)
	}
}

func randomly(b []byte) { rand.New(rand.NewSource(7)).Read(b) }

const (
	headers   = state.AreaStart     // the part of a disk that has the headers
	stateArea = stateSize - headers // what follows
)

// stateFailures are boots that end because of a state disk.
func stateFailures() map[string]failure {
	change := func(change func(t *testing.T, g *guest), want string) failure {
		return failure{change: change, want: want}
	}
	orders := func(text, want string) failure {
		return change(func(t *testing.T, g *guest) { g.replace(t, policy.Orders, []byte(text)) }, want)
	}
	line := func(old, new, want string) failure {
		return change(func(_ *testing.T, g *guest) { g.cmdline = strings.Replace(g.cmdline, old, new, 1) }, want)
	}
	return map[string]failure{
		"no disk": change(func(_ *testing.T, g *guest) {
			g.disks = nil
			g.cmdline += " cocoroot.timeout=6s"
		}, "STATE-DISK"),
		"two disks of the name": change(func(t *testing.T, g *guest) {
			g.disks = append(g.disks, launch.Disk{Path: firstDisk(t), Serial: "db", Writable: true})
		}, "STATE-DISK"),
		"a disk that cannot be written":    change(func(_ *testing.T, g *guest) { g.disks[0].Writable = false }, "STATE-DISK"),
		"the image's disk by another name": line("serial:db", "serial:sealed", "STATE-DISK"),
		"one disk by two names":            change(func(_ *testing.T, g *guest) { g.cmdline += " cocoroot.state=logs,/logs,/dev/vdb" }, "STATE-DISK"),

		"no secret":       change(func(_ *testing.T, g *guest) { g.without(policy.DefaultStateKey) }, "STATE-SECRET"),
		"a short secret":  change(func(t *testing.T, g *guest) { g.replace(t, policy.DefaultStateKey, stateSecret[:31]) }, "STATE-SECRET"),
		"an empty secret": change(func(t *testing.T, g *guest) { g.replace(t, policy.DefaultStateKey, nil) }, "STATE-SECRET"),
		"another secret": change(func(t *testing.T, g *guest) {
			g.replace(t, policy.DefaultStateKey, append([]byte("x"), stateSecret[1:]...))
		}, "STATE-HEADER"),

		"an unknown order":      orders("grow db\n", "STATE-ORDERS"),
		"an order twice":        orders("create db\ncreate db\n", "STATE-ORDERS"),
		"a floor for a new one": orders("create db\nfloor db 1\n", "STATE-ORDERS"),
		"another state's order": orders("create logs\n", "STATE-ORDERS"),
		"half an order":         orders("create db", "STATE-ORDERS"),
		"empty orders":          orders("", "STATE-ORDERS"),
		"orders without a state": change(func(t *testing.T, g *guest) {
			g.cmdline = strings.Replace(g.cmdline, dbLine, "", 1)
			g.replace(t, policy.Orders, []byte("create db\n"))
		}, "STATE-ORDERS"),

		"an empty disk":    change(overwrite(0, stateSize, func(b []byte) { clear(b) }), "STATE-MISSING"),
		"headers of zeros": change(overwrite(0, headers, func(b []byte) { clear(b) }), "STATE-MISSING"),
		"headers of noise": change(overwrite(0, headers, randomly), "STATE-HEADER"),
		"both headers torn": change(overwrite(0, headers, func(b []byte) {
			clear(b[2048:4096])
			clear(b[state.SecondCopy+2048:])
		}), "STATE-HEADER"),
		"headers of two lives": change(func(t *testing.T, g *guest) {
			writeAt(t, g.disks[0].Path, state.SecondCopy, readAt(t, states.other, state.SecondCopy, 4096))
		}, "STATE-HEADER"),
		"headers of two lives, to be created": change(func(t *testing.T, g *guest) {
			g.replace(t, policy.Orders, []byte("create db\n"))
			writeAt(t, g.disks[0].Path, 0, readAt(t, states.other, 0, 4096))
		}, "STATE-HEADER"),
		"another state's disk": line("state=db,/data", "state=db2,/data", "STATE-HEADER"),

		"cut":            change(func(t *testing.T, g *guest) { truncate(t, g, stateSize-40<<20) }, "STATE-SMALL"),
		"cut to headers": change(func(t *testing.T, g *guest) { truncate(t, g, headers+4096) }, "STATE-SMALL"),
		"cut to nothing": change(func(t *testing.T, g *guest) { truncate(t, g, 64<<10) }, "STATE-SMALL"),
		"too small for a new one": change(func(t *testing.T, g *guest) {
			g.disks[0].Path = blankDisk(t, t.TempDir(), 256<<20)
			g.replace(t, policy.Orders, []byte("create db\n"))
		}, "STATE-SMALL"),

		"a kernel that cannot map it": change(func(t *testing.T, g *guest) {
			dir := oracle.Fixture(t, "debian13-kernel") // in an archive without the modules for it
			g.kernel, g.fakeTSM = filepath.Join(dir, "bzImage"), filepath.Join(dir, "fake_tsm.ko")
			g.initrd, _ = withModules(t, dir, "--channel", "serial")
			g.asks(t, nil, newAnswering(t, g.entries...), "serial:ttyS2")
		}, "STATE-TABLE"),

		"blocks of zeros": change(overwrite(headers, stateArea, func(b []byte) { clear(b) }), "STATE-CORRUPT"),
		"blocks of noise": change(overwrite(headers, stateArea, randomly), "STATE-CORRUPT"),
		"shuffled": change(overwrite(headers, stateArea, func(b []byte) {
			blocks := slices.Collect(slices.Chunk(bytes.Clone(b), 4096))
			rand.New(rand.NewSource(7)).Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
			copy(b, slices.Concat(blocks...))
		}), "STATE-CORRUPT"),
		"blocks of an earlier life": change(func(t *testing.T, g *guest) {
			writeAt(t, g.disks[0].Path, headers, readAt(t, states.other, headers, stateArea))
		}, "STATE-CORRUPT"),
		"every second block of an earlier life": change(func(t *testing.T, g *guest) {
			other := readAt(t, states.other, headers, stateArea)
			for at := 0; at < stateArea; at += 2 * 4096 {
				if block := other[at : at+4096]; !bytes.Equal(block, make([]byte, 4096)) {
					writeAt(t, g.disks[0].Path, headers+int64(at), block)
				}
			}
		}, "STATE-CORRUPT"),

		"older than the floor": orders("floor db 1000000\n", "STATE-ROLLBACK"),

		"no folder":      line("db,/data,", "db,/absent,", "STATE-PATH"),
		"a file":         line("db,/data,", "db,/bin/busybox,", "STATE-PATH"),
		"a link to /run": line("db,/data,", "db,/out,", "STATE-PATH"),
		"a folder of another": change(func(t *testing.T, g *guest) {
			g.cmdline += " cocoroot.state=logs,/link,serial:logs"
			g.disks = append(g.disks, launch.Disk{Path: blankDisk(t, t.TempDir(), stateSize), Serial: "logs", Writable: true})
			g.replace(t, policy.Orders, []byte("create logs\n"))
		}, "STATE-PATH"),
	}
}

func truncate(t *testing.T, g *guest, size int64) {
	t.Helper()
	if err := os.Truncate(g.disks[0].Path, size); err != nil {
		t.Fatal(err)
	}
}

// After a boot that failed because of a state, the image's program has not run, and
// neither a secret nor a key is left anywhere; and nobody has made the state anew.
func TestStateFails(t *testing.T) {
	t.Parallel()
	for name, f := range some(t, stateFailures(),
		"no disk", "two disks of the name", "a short secret", "another secret", "an unknown order", "orders without a state",
		"an empty disk", "headers of two lives", "cut", "a kernel that cannot map it", "blocks of an earlier life", "older than the floor", "a link to /run",
	) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stateImage(t)
			g := stateGuest(t, s, firstDisk(t), "")
			keys := append(stateNeedles(t, states.first), forms("state secret", stateSecret)...)
			f.change(t, g)
			var before []byte
			if len(g.disks) > 0 && f.want != "STATE-ROLLBACK" { // which has been opened
				before = read(t, g.disks[0].Path)
			}
			needles := slices.Concat(needlesOf(t, s.path, s.key), keys)
			for _, e := range g.entries {
				if e.GUID == policy.Orders && len(e.Data.Bytes()) >= pieceSize {
					needles = append(needles, forms("orders", e.Data.Bytes())...)
				}
			}
			_, after := g.searches(t, "", needles)
			g.fails(t, f.want)
			if left := after(); len(left) > 0 {
				t.Errorf("left in memory:\n%v", left)
			}
			before = before[:min(headers, len(before))]
			if before != nil && !strings.HasPrefix(name, "too small for") && !bytes.HasPrefix(read(t, g.disks[0].Path), before) {
				t.Error("the headers were written")
			}
		})
	}
}
