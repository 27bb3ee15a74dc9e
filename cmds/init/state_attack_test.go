package main_test

import (
	"bytes"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/xts"

	"cocoroot/unlock/state"
	"cocoroot/unlock/volume"
)

// The disks of these tests: nearly the smallest ones.
const attackedSize = 280 << 20

// What lies where on them.
const (
	blockSize    = volume.BlockSize
	tagSize      = volume.JournalTag
	journalStart = headers + blockSize
	runBlocks    = 4096 // of data, after a run of their tags
	// A section of the journal is a block of entries, one in each sector, and then
	// their blocks.
	sectionEntries = 8
	sectionSize    = (1 + sectionEntries) * blockSize
)

var journalSize = int64(volume.JournalSections(attackedSize)) * sectionSize

// places returns where a block of the volume lies on the disk, and its tag.
func places(block int64) (data, tag int64) {
	const run = runBlocks * (tagSize + blockSize)
	start := journalStart + journalSize + block/runBlocks*run
	within := block % runBlocks
	return start + runBlocks*tagSize + within*blockSize, start + within*tagSize
}

// volumeBlocks is how many blocks there are.
func volumeBlocks() int64 {
	n := int64(0)
	for {
		if data, _ := places(n); data+blockSize > attackedSize {
			return n
		}
		n++
	}
}

// rollBack puts blocks of another disk, with their tags, on a disk.
func rollBack(disk, from []byte, blocks []int64) {
	for _, b := range blocks {
		data, tag := places(b)
		copy(disk[data:data+blockSize], from[data:])
		copy(disk[tag:tag+tagSize], from[tag:])
	}
}

// differing returns the blocks that are not the same on two disks.
func differing(a, b []byte) []int64 {
	var out []int64
	for n := range volumeBlocks() {
		data, _ := places(n)
		if !bytes.Equal(a[data:data+blockSize], b[data:data+blockSize]) {
			out = append(out, n)
		}
	}
	return out
}

// opened is a disk with the key to it, for a test that looks for its victims.
type opened struct {
	disk   []byte
	cipher *xts.Cipher
}

// openState derives the key as cmds/init/README.md says.
func openState(t *testing.T, path string) opened {
	t.Helper()
	h, err := state.Decode(readAt(t, path, 0, state.HeaderSize))
	if err != nil {
		t.Fatal(err)
	}
	key, err := hkdf.Key(sha256.New, stateSecret, h.Salt[:], "cocoroot/state/v1/aes-xts\x00"+h.Name, 64)
	if err != nil {
		t.Fatal(err)
	}
	cipher, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	return opened{read(t, path), cipher}
}

func (o opened) block(n int64) []byte {
	data, _ := places(n)
	out := make([]byte, blockSize)
	o.cipher.Decrypt(out, o.disk[data:data+blockSize], uint64(n*blockSize/512))
	return out
}

// superBlocks are the copies of btrfs's superblock that such a disk has.
var superBlocks = []int64{64 << 10 / blockSize, 64 << 20 / blockSize}

func isSuper(n int64) bool { return n == superBlocks[0] || n == superBlocks[1] }

// super returns a field of the superblock (struct btrfs_super_block).
func (o opened) super(at int) uint64 {
	return binary.LittleEndian.Uint64(o.block(superBlocks[0])[at:])
}

const (
	superGeneration = 0x48
	superLogRoot    = 0x60
)

// node is a block of btrfs's trees (struct btrfs_header).
type node struct {
	block, generation, tree uint64
	level                   byte
}

// fileTree has the files, and the content of small ones (BTRFS_FS_TREE_OBJECTID).
const fileTree = 5

// node returns what a block is as a node.
func (o opened) node(n int64) (node, bool) {
	b, id := o.block(n), o.block(superBlocks[0])[32:48]
	return node{
		uint64(n), binary.LittleEndian.Uint64(b[80:]), binary.LittleEndian.Uint64(b[88:]), b[100],
	}, bytes.Equal(b[32:48], id) && !isSuper(n)
}

// which returns those of the blocks that are so.
func which(blocks []int64, so func(int64) bool) []int64 {
	var out []int64
	for _, n := range blocks {
		if so(n) {
			out = append(out, n)
		}
	}
	return out
}

// isLeaf reports whether a block is a leaf of the file tree, of the last commit.
func (o opened) isLeaf(n int64) bool {
	b, ok := o.node(n)
	return ok && b.tree == fileTree && b.level == 0 && b.generation == o.super(superGeneration)
}

// sameKeys reports whether two leaves differ in nothing but checksum and content: they
// have the same place, generation, tree and level, and items of the same keys and sizes
// (struct btrfs_item).
func sameKeys(a, b []byte) bool {
	const header, item = 101, 25
	end := header + item*int(binary.LittleEndian.Uint32(a[96:]))
	return end <= blockSize && bytes.Equal(a[32:end], b[32:end])
}

// journal forges a journal of dm-integrity in which every section is a commit that is
// to be done again: struct journal_entry and dm_integrity_commit_id in
// drivers/md/dm-integrity.c. What an entry says is forge's to write: the number of a
// block, in sectors, its 4096 bytes, and its tag.
func journal(forge func(entry int) (sector uint64, data, tag []byte)) []byte {
	const sectors = sectionSize / 512
	out := make([]byte, journalSize)
	for i := range int(journalSize / sectionSize) {
		section := out[i*sectionSize:][:sectionSize]
		for e := range sectionEntries {
			sector, data, tag := forge(i*sectionEntries + e)
			entry := section[e*512:]
			binary.LittleEndian.PutUint64(entry, sector)
			at := section[(1+e)*blockSize:][:blockSize]
			copy(at, data)
			for s := range 8 {
				copy(entry[8+8*s:], at[s*512+504:][:8])
			}
			copy(entry[8+64:][:tagSize], tag)
		}
		for s := range sectors {
			binary.LittleEndian.PutUint64(section[s*512+504:], 0x1111111111111111^(uint64(i)<<32^uint64(s)))
		}
	}
	return out
}

// unusedEntry is the number of an entry that says nothing.
const unusedEntry = 1<<64 - 1<<32

// replaying is a journal that writes blocks of another disk.
func replaying(from []byte, blocks []int64) []byte {
	return journal(func(e int) (uint64, []byte, []byte) {
		if e >= len(blocks) {
			return unusedEntry, nil, nil
		}
		data, tag := places(blocks[e])
		return uint64(blocks[e] * blockSize / 512), from[data:][:blockSize], from[tag:][:tagSize]
	})
}

// lives are disks of one state: all files in version 1; after that in version 2; in
// another future of version 1, in version 3; and in a third one, synced into version 4
// without a commit.
var lives struct {
	once                  sync.Once
	one, two, three, four opened
}

func stateLives(t *testing.T) (one, two, three, four opened) {
	t.Helper()
	s := recordingImage(t)
	lives.once.Do(func() {
		next := func(from []byte, command string) opened {
			disk := blankDisk(t, filepath.Join(standard.dir, "recorder"), attackedSize)
			defer os.Remove(disk)
			if from != nil {
				if err := copyInto(disk, bytes.NewReader(from)); err != nil {
					t.Fatal(err)
				}
			}
			g := stateGuest(t, s, disk, "create db\n")
			g.cmdline += " -- " + command + " && recorder settle cocoroot-state-db.integrity"
			if e := g.runs(t); !strings.Contains(e.console, "boot-test: settled") {
				t.Fatalf("the guest could not %s", command)
			}
			return openState(t, disk)
		}
		one := next(nil, "recorder version /data 1 && umount /data")
		two := next(one.disk, "recorder version /data 2 && umount /data")
		three := next(one.disk, "recorder version /data 3 && umount /data")
		four := next(one.disk, "mount -o remount,commit=300 /data && recorder synced /data 4")
		lives.one, lives.two, lives.three, lives.four = one, two, three, four
	})
	if lives.four.disk == nil {
		t.Fatal("the disks could not be made")
	}
	return lives.one, lives.two, lives.three, lives.four
}

// read counts how the guest has found the files: by kind, and by version.
type found map[string]int

var (
	foundFiles = regexp.MustCompile(`boot-test: count (.*): (\d+)\r`)
	kernelOops = regexp.MustCompile(`Oops|BUG:|general protection|WARNING: CPU|kernel BUG|UBSAN|KASAN`)
)

// attacked boots with an attacked disk. It returns the code with which the guest has
// ended, or what it has found.
func attacked(t *testing.T, disk []byte, orders string) (code string, f found) {
	t.Helper()
	path := blankDisk(t, t.TempDir(), attackedSize)
	if err := copyInto(path, bytes.NewReader(disk)); err != nil {
		t.Fatal(err)
	}
	g := stateGuest(t, recordingImage(t), path, orders)
	g.cmdline += " -- recorder check /data"
	e := g.run(t, bootLimit)
	if oops := kernelOops.FindString(e.console); oops != "" || e.Panic != "" || e.err != nil {
		t.Errorf("the kernel says %q, its panic is %q: %v", oops, e.Panic, e.err)
	}
	g.wiped(t, e)
	f = make(found)
	for _, m := range foundFiles.FindAllStringSubmatch(e.console, -1) {
		f[m[1]], _ = strconv.Atoi(m[2])
	}
	if e.Fatal == nil {
		return "", f
	}
	if strings.Contains(e.console, ran) {
		t.Error("the image's program ran")
	}
	return string(e.Fatal.Code), f
}

// Both kinds of files, and as many as there are of each.
func allIn(version int) found {
	return found{fmt.Sprint("small version ", version): 150, fmt.Sprint("large version ", version): 150}
}

// A host that has several states of a disk puts a disk together from them, with tags
// that the key has made, and forges what has none. Nothing of it is read as something
// that was never written; what is read beside it is said in SECURITY.md.
func TestStateAttacks(t *testing.T) {
	t.Parallel()
	one, two, three, four := stateLives(t)
	changed := differing(one.disk, two.disk)
	data := which(changed, func(n int64) bool { _, ok := two.node(n); return !ok && !isSuper(n) })
	leaves := which(changed, two.isLeaf)
	inBoth := which(leaves, func(n int64) bool { return sameKeys(two.block(n), three.block(n)) })
	random := rand.New(rand.NewSource(9))
	if len(data) < 100 || len(leaves) < 20 || four.super(superLogRoot) == 0 || four.super(superGeneration) != one.super(superGeneration) {
		t.Fatalf("%d blocks of data, %d leaves, %d in both, a log at %d: there is nothing to attack", len(data), len(leaves), len(inBoth), four.super(superLogRoot))
	}
	floor := fmt.Sprintf("floor db %d\n", two.super(superGeneration))
	type attack struct {
		disk   opened
		attack func(disk []byte)
		orders string
		code   string
		want   func(f found) bool
	}
	back := func(blocks []int64) func([]byte) { return func(d []byte) { rollBack(d, one.disk, blocks) } }
	withJournal := func(j []byte) func([]byte) { return func(d []byte) { copy(d[journalStart:], j) } }
	exactly := func(want found) func(found) bool {
		return func(f found) bool { return fmt.Sprint(f) == fmt.Sprint(want) }
	}
	for name, a := range some(t, map[string]attack{
		// One block, and the whole of the older commit is there again.
		"superblock":                  {two, back(superBlocks), "", "", exactly(allIn(1))},
		"superblock, below the floor": {two, back(superBlocks), floor, "STATE-ROLLBACK", nil},
		// What was synced after the last commit has no number of its own.
		"superblock without log": {four, back(superBlocks), fmt.Sprintf("floor db %d\n", one.super(superGeneration)), "", exactly(allIn(1))},
		"data":                   {two, back(data), "", "", exactly(found{"small version 2": 150, "large refused": 150})},
		"leaves": {two, back(leaves[10:20]), "", "", func(f found) bool {
			return f["small version 1"]+f["large version 1"] == 0 && f["small refused"] > 0 && f["small version 2"] > 0
		}},
		"every second block": {two, back(which(changed, func(n int64) bool { return !isSuper(n) && random.Intn(2) == 0 })), "", "STATE-CORRUPT", nil},
		// Two futures of one commit have the same numbers: this is not promised.
		"leaves of another future": {two, func(d []byte) { rollBack(d, three.disk, inBoth) }, "", "", func(f found) bool {
			return f["small version 2"]+f["small version 3"] == 150 && f["large version 2"]+f["large refused"] == 150 &&
				f["small version 2"] > 0 && (f["small version 3"] > 0) == (len(inBoth) > 0)
		}},
		"journal of noise": {two, func(d []byte) { randomly(d[journalStart:][:journalSize]) }, "", "STATE-CORRUPT", nil},
		"journal with old data": {two, withJournal(replaying(one.disk, data[:min(len(data), 400)])), "", "", func(f found) bool {
			return f["large version 1"] == 0 && f["large refused"] > 100 && f["small version 2"] == 150
		}},
		"journal of places that are none": {two, withJournal(journal(func(e int) (uint64, []byte, []byte) {
			sectors := uint64(volumeBlocks() * blockSize / 512)
			return []uint64{sectors, sectors + 8, 1 << 40, 1<<64 - 2<<32, 1<<63 + 8, sectors - 8, sectors - 8, sectors - 16}[e%8], bytes.Repeat([]byte{byte(e)}, blockSize), []byte("forged")
		})), "", "", exactly(allIn(2))},
		"journal of half places": {two, withJournal(journal(func(e int) (uint64, []byte, []byte) {
			return uint64(e), bytes.Repeat([]byte{byte(e)}, blockSize), []byte("forged")
		})), "", "STATE-CORRUPT", nil},
	}, "superblock, below the floor", "superblock without log", "data", "leaves", "every second block", "journal with old data", "journal of places that are none") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := bytes.Clone(a.disk.disk)
			a.attack(d)
			code, f := attacked(t, d, a.orders)
			t.Logf("code %q, files %v", code, f)
			if code != a.code || code == "" && !a.want(f) || f["small WRONG"]+f["large WRONG"] > 0 {
				t.Errorf("ended with %q, found %v; want %q", code, f, a.code)
			}
		})
	}
}
