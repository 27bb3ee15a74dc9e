package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/state"
)

// The state disks of these tests are small: a state takes 256 MiB at least, and its
// header, journal and tags some more.
const stateSize = 320 << 20

// stateProgram does with the state at /data what the arguments say.
const stateProgram = `
echo "boot-test: mounts $(grep ' /data' /proc/mounts)"
echo "boot-test: folder $(stat -c '%u:%g %a' /data)"
echo "boot-test: word $(cat /data/word)"
echo "boot-test: keeps $(ls /run/cocoroot/secrets | tr '\n' ' ')"
echo "boot-test: status $(tr -d ' \n' </run/cocoroot/status.json)"
if [ "$1" = write ]; then
	echo "$2" >/data/word && dd if=/dev/urandom of=/data/filler bs=64k count=64 && sync && echo "boot-test: written"
fi
echo "boot-test: df $(df -k /data | tail -n 1)"
cat /data/filler >/dev/null && echo "boot-test: filler read"
umount /data /logs
`

// stateRoot makes the root of an image with folders for states.
func stateRoot(t testing.TB, dir string) string {
	root := testRoot(t, dir, stateProgram)
	for _, folder := range []string{"data", "logs"} {
		if err := os.Mkdir(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chown(filepath.Join(root, "data"), 77, 88), os.Chmod(filepath.Join(root, "data"), os.ModeSetgid|0o750)); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "../../data", "out": "/run/x", "twice": "/logs/deep"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// states is what the tests of state disks have in common, made once.
var states struct {
	once  sync.Once
	image sealedImage
	first string // the disk of the state "db", in which the word is "first"
	other string // another life of the same state
}

// stateSecret is the entry from which the keys are derived.
var stateSecret = []byte("the secret of all states: \x00\xff 64 bytes, that no person has chosen")

// dbLine makes the disk vdb, with the serial number db, the state "db".
var dbLine = " cocoroot.state-key=" + policy.DefaultStateKey.String() + " cocoroot.state=db,/data,serial:db"

// stateGuest returns a guest of the image that has a state on the disk.
func stateGuest(t testing.TB, s sealedImage, disk string, orders string) *guest {
	t.Helper()
	g := s.boots(t)
	g.cmdline += dbLine
	g.disks = []launch.Disk{{Path: disk, Serial: "db", Writable: true}}
	g.entries = append(g.entries, entry(t, policy.DefaultStateKey, stateSecret))
	if orders != "" {
		g.entries = append(g.entries, entry(t, policy.Orders, []byte(orders)))
	}
	return g
}

// blankDisk makes a disk of zeros.
func blankDisk(t testing.TB, dir string, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "disk")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// stateImage seals the image of these tests and makes two states with it.
func stateImage(t *testing.T) sealedImage {
	t.Helper()
	standardImage(t) // its folder is removed at the end
	states.once.Do(func() {
		dir := filepath.Join(standard.dir, "states")
		image := seal(t, dir, stateRoot(t, dir))
		var disks [2]string
		for i, word := range []string{"first", "other"} {
			disks[i] = blankDisk(t, dir, stateSize)
			g := stateGuest(t, image, disks[i], "create db\n")
			g.cmdline += " -- write " + word
			e := g.runs(t)
			g.wiped(t, e)
			if !strings.Contains(e.console, "boot-test: written") || !e.mounted(t)[0].Created {
				t.Fatalf("the state was not made")
			}
		}
		states.image, states.first, states.other = image, disks[0], disks[1]
	})
	if states.image.path == "" {
		t.Fatal("the states of the boot tests could not be made")
	}
	return states.image
}

// firstDisk returns a copy of the disk with the word "first".
func firstDisk(t *testing.T) string {
	t.Helper()
	stateImage(t)
	return copyDisk(t, states.first)
}

func copyDisk(t *testing.T, path string) string {
	t.Helper()
	out := blankDisk(t, t.TempDir(), 0)
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := copyInto(out, from); err != nil {
		t.Fatal(err)
	}
	return out
}

// copyInto writes all that is not zero.
func copyInto(path string, from io.Reader) error {
	to, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer to.Close()
	block, at, zeros := make([]byte, 64<<10), int64(0), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(from, block)
		if n == 0 {
			return errors.Join(to.Truncate(at), to.Close())
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := to.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
}

// said returns what the image's program has said after a word.
func (e ended) said(what string) string {
	_, rest, _ := strings.Cut(e.console, "boot-test: "+what+" ")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// mounted returns what the status file has about states.
func (e ended) mounted(t *testing.T) []state.Mounted {
	t.Helper()
	var s struct{ States []state.Mounted }
	if err := json.Unmarshal([]byte(e.said("status")), &s); err != nil || len(s.States) == 0 {
		t.Fatalf("the status file has no states: %v: %q", err, e.said("status"))
	}
	return s.States
}

// A state is there again at the next boot, and when the image was changed, which
// has another root hash and another disk key.
func TestState(t *testing.T) {
	t.Parallel()
	s := stateImage(t)
	disk := firstDisk(t)
	g := stateGuest(t, s, disk, "")
	g.cmdline += " -- write second"
	e := g.runs(t)
	g.wiped(t, e)
	if e.said("word") != "first" || !strings.Contains(e.console, "boot-test: filler read") {
		t.Errorf("the word is %q; want first, and what was written with it", e.said("word"))
	}
	if got := e.said("folder"); got != "77:88 2750" {
		t.Errorf("owner and mode are %s; want the folder's in the image, 77:88 2750", got)
	}
	if got := e.said("mounts"); !strings.Contains(got, " btrfs rw,") || !strings.Contains(got, "nosuid") || !strings.Contains(got, "nodev") {
		t.Errorf("mounted as %q", got)
	}
	if got := e.said("keeps"); got != "" {
		t.Errorf("the program finds the entries %q; want none", got)
	}
	before := e.mounted(t)[0]
	if before.Created || before.Name != "db" || before.Path != "/data" || before.Disk != "/dev/vdb" || before.Generation == 0 {
		t.Errorf("status = %+v", before)
	}

	dir := t.TempDir()
	root := stateRoot(t, dir)
	write(t, filepath.Join(root, "new"), []byte("a newer image"))
	newer := seal(t, dir, root)
	if newer.policy.Image.RootHash == s.policy.Image.RootHash || bytes.Equal(newer.key, s.key) {
		t.Fatal("the other image is the same")
	}
	// That it may be created changes nothing: it is there.
	e = stateGuest(t, newer, disk, "create db\n").runs(t)
	if after := e.mounted(t)[0]; e.said("word") != "second" || after.Created || after.Generation <= before.Generation {
		t.Errorf("with another image the word is %q and the status %+v; want second, and more than %+v", e.said("word"), after, before)
	}
}

// Both ways in which secrets come lead to the same keys; and without a clean end,
// what was synced is there.
func TestStateReleased(t *testing.T) {
	t.Parallel()
	s := stateImage(t)
	disk := blankDisk(t, t.TempDir(), stateSize)
	g := stateGuest(t, s, disk, "create db\n")
	a := newAnswering(t, g.entries...)
	g.asks(t, nil, a, "serial:ttyS2")
	g.cmdline += " -- write released"
	e := g.runs(t)
	if !e.mounted(t)[0].Created || !strings.Contains(e.console, "boot-test: written") || e.said("keeps") != "" {
		t.Errorf("status = %+v, kept %q", e.mounted(t), e.said("keeps"))
	}
	if e := stateGuest(t, s, disk, "").runs(t); e.said("word") != "released" {
		t.Errorf("with injected secrets the word is %q", e.said("word"))
	}
	g = stateGuest(t, s, disk, "")
	a = newAnswering(t, g.entries...)
	if e := g.asks(t, nil, a, "serial:ttyS2").runs(t); e.said("word") != "released" {
		t.Errorf("with released secrets the word is %q", e.said("word"))
	}
}

// One copy of the header is enough, and the other is written again.
func TestStateTornHeader(t *testing.T) {
	t.Parallel()
	for name, at := range some(t, map[string]int64{"first": 0, "second": state.SecondCopy}, "first") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, disk := stateImage(t), firstDisk(t)
			want := readAt(t, disk, at, state.HeaderSize)
			writeAt(t, disk, at+512, make([]byte, state.HeaderSize-512))
			// An order to create it does not matter: the state is there.
			if e := stateGuest(t, s, disk, "create db\n").runs(t); e.said("word") != "first" || e.mounted(t)[0].Created {
				t.Errorf("the word is %q, the status %+v", e.said("word"), e.mounted(t))
			}
			if !bytes.Equal(readAt(t, disk, at, state.HeaderSize), want) {
				t.Error("the torn copy was not written again")
			}
		})
	}
}

// A larger disk is used in full, and what was on it stays.
func TestStateGrows(t *testing.T) {
	t.Parallel()
	s, disk := stateImage(t), firstDisk(t)
	before := stateGuest(t, s, disk, "").runs(t)
	if err := os.Truncate(disk, 2*stateSize); err != nil {
		t.Fatal(err)
	}
	after := stateGuest(t, s, disk, "").runs(t)
	if after.said("word") != "first" || before.said("df") == after.said("df") {
		t.Errorf("before: %s; after: %s, the word is %q", before.said("df"), after.said("df"), after.said("word"))
	}
	if again := stateGuest(t, s, disk, "").runs(t); again.said("word") != "first" {
		t.Errorf("and then the word is %q", again.said("word"))
	}
}

// What the disk has where dm-integrity would look for a superblock of its own is not
// looked at, and not written over.
func TestStateForeignSuperblock(t *testing.T) {
	t.Parallel()
	s, disk := stateImage(t), firstDisk(t)
	hostile := make([]byte, 4096)
	copy(hostile, "integrt\x00\x03\x0f\x20\x00\xff\xff\xff\x7f")
	for i := 16; i < 24; i++ {
		hostile[i] = 0xff // sectors of data
	}
	hostile[24] = 0xff // all flags, that of a dirty bitmap among them
	hostile[28], hostile[29] = 3, 15
	writeAt(t, disk, headers, hostile)
	if e := stateGuest(t, s, disk, "").runs(t); e.said("word") != "first" {
		t.Errorf("the word is %q", e.said("word"))
	}
	if !bytes.Equal(readAt(t, disk, headers, len(hostile)), hostile) {
		t.Error("the block was written over")
	}
}

// Two states of one secret, one of them new; and one is mounted through a link.
func TestTwoStates(t *testing.T) {
	t.Parallel()
	s := stateImage(t)
	g := stateGuest(t, s, firstDisk(t), "create logs\nfloor db 1\n")
	g.cmdline = strings.Replace(g.cmdline, "db,/data,", "db,/link,", 1) + " cocoroot.state=logs,/logs,serial:logs"
	g.disks = append(g.disks, launch.Disk{Path: blankDisk(t, t.TempDir(), stateSize), Serial: "logs", Writable: true})
	e := g.runs(t)
	g.wiped(t, e)
	m := e.mounted(t)
	if e.said("word") != "first" || len(m) != 2 || m[0].Created || !m[1].Created || m[1].Name != "logs" {
		t.Errorf("the word is %q, the status %+v", e.said("word"), m)
	}
}

func readAt(t *testing.T, path string, at int64, n int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeAt(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
