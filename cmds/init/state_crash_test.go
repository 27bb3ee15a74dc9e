package main_test

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoroot/initramfs/launch"
)

// recording is the image whose program is testdata/recorder, sealed once.
var recording struct {
	once  sync.Once
	image sealedImage
}

func recordingImage(t *testing.T) sealedImage {
	t.Helper()
	standardImage(t) // its folder is removed at the end
	recording.once.Do(func() {
		dir := filepath.Join(standard.dir, "recorder")
		root := testRoot(t, dir, `eval "$*"`)
		if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		buildProgram(t, root, "recorder")
		recording.image = seal(t, dir, root)
	})
	if recording.image.path == "" {
		t.Fatal("the image could not be sealed")
	}
	return recording.image
}

// rounds is how often something random is tried.
func rounds(few, soak int) int {
	if soaking() {
		return soak
	}
	return few
}

var (
	keptRecord = regexp.MustCompile(`boot-test: (?:kept|all records to) (\d+)[ \r]`)
	errorOfOld = regexp.MustCompile(`(?i)AEAD ERROR|parent transid|csum failed|checksum verify failed`)
)

// writing boots a guest that checks the records, of which there must be so many, and
// writes further ones until power fails at a random moment. It returns how many
// records it has acknowledged.
func writing(t *testing.T, r *rand.Rand, g *guest, least int, cut func()) int {
	t.Helper()
	g.cmdline += fmt.Sprintf(" -- recorder keep /data %d", least)
	// Some records later; or about when the state is opened.
	after, delay := fmt.Sprintf("boot-test: kept %d\r", least+1+r.Intn(120)), time.Duration(r.Intn(200))*time.Millisecond
	if least > 0 && soaking() && r.Intn(4) == 0 {
		after, delay = "cocoroot: disk key wiped", time.Duration(r.Intn(4000))*time.Millisecond
	}
	killed, begins := make(chan struct{}), g.watch.on(after)
	g.killed = killed
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		defer close(killed)
		select {
		case <-begins:
			time.Sleep(delay)
		case <-time.After(time.Minute): // each sync waits for this machine's disk
		case <-ended:
		}
		cut()
	}()
	e := g.run(t, bootLimit)
	if e.Fatal != nil || e.Panic != "" || strings.Contains(e.console, "LOST") {
		t.Fatalf("after %d records: %+v, and the program says LOST: %v", least, e.Outcome, strings.Contains(e.console, "LOST"))
	}
	if found := errorOfOld.FindString(e.console); found != "" {
		t.Errorf("the console has %q", found)
	}
	last := least
	for _, m := range keptRecord.FindAllStringSubmatch(e.console, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		last = max(last, n)
	}
	t.Logf("killed %s after %q, or after a minute: %d records", delay, after, last)
	return last
}

func chance() (*rand.Rand, int64) {
	seed := time.Now().UnixNano()
	return rand.New(rand.NewSource(seed)), seed
}

// QEMU is killed at random moments under a guest that writes, syncs, and tells the
// outside of it: nothing of what it has told is lost.
func TestStateSurvivesKills(t *testing.T) {
	t.Parallel()
	s := recordingImage(t)
	r, seed := chance()
	t.Logf("seed %d", seed)
	disk, acknowledged := blankDisk(t, t.TempDir(), stateSize), 0
	for range rounds(2, 20) {
		acknowledged = writing(t, r, stateGuest(t, s, disk, "create db\n"), acknowledged, func() {})
	}
	checksRecords(t, stateGuest(t, s, disk, ""), acknowledged)
}

// checksRecords boots once more, to look at the records only.
func checksRecords(t *testing.T, g *guest, acknowledged int) {
	t.Helper()
	if acknowledged < 10 {
		t.Errorf("only %d records were acknowledged", acknowledged)
	}
	g.cmdline += fmt.Sprintf(" -- recorder look /data %d", acknowledged)
	e := g.runs(t)
	if !strings.Contains(e.console, fmt.Sprintf("of which %d had to be", acknowledged)) || strings.Contains(e.console, "LOST") {
		t.Errorf("not all of %d records are there", acknowledged)
	}
}

// The disk loses a random half of what was written and not flushed, sector by sector.
func TestStateSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	s := recordingImage(t)
	r, seed := chance()
	t.Logf("seed %d", seed)
	d := serveDisk(t, blankDisk(t, t.TempDir(), stateSize), func(uint64, []byte) verdict { return answered })
	d.writable, d.unflushed = true, make(map[uint64][]byte)
	attached := func(orders string) *guest {
		g := stateGuest(t, s, "", orders)
		g.disks = []launch.Disk{}
		g.extra = append(g.extra, d.as("virtio-blk-pci,drive=host,serial=db")...)
		return g
	}
	acknowledged := 0
	for range rounds(2, 10) {
		acknowledged = writing(t, r, attached("create db\n"), acknowledged, func() {
			kept, lost := d.powerCut(1+r.Intn(400), func() bool { return r.Intn(2) == 0 })
			t.Logf("the disk loses %d sectors, and keeps %d that were not flushed", lost, kept)
		})
		d.powerOn()
	}
	checksRecords(t, attached(""), acknowledged)
}
