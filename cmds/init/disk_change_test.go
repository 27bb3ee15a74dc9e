package main_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/unlock/release"
)

// The host changes a disk while the guest uses it.

// The disks here are the drive "changing", which the host may write, and of this
// serial number.
const changing = "changing"

// change is what the host does to the disk; other is a file with nearly the same content.
type change func(ctx context.Context, q *qmp.Client, other string) error

func resized(size int64) change {
	return func(ctx context.Context, q *qmp.Client, _ string) error {
		return q.Execute(ctx, "block_resize", map[string]any{"device": changing, "size": size}, nil)
	}
}

// emptied takes the disk's content away, and leaves the device.
func emptied(ctx context.Context, q *qmp.Client, _ string) error {
	return q.Execute(ctx, "human-monitor-command", map[string]any{"command-line": "drive_del " + changing}, nil)
}

// unplugged takes away the device: a SCSI disk, for the kernel lets no PCI device go.
func unplugged(ctx context.Context, q *qmp.Client, _ string) error {
	return q.Execute(ctx, "device_del", map[string]any{"id": "disk"}, nil)
}

// joined plugs in another disk, of the same serial number.
func joined(ctx context.Context, q *qmp.Client, other string) error {
	return errors.Join(
		q.Execute(ctx, "blockdev-add", map[string]any{
			"driver": "raw", "node-name": "other", "read-only": true,
			"file": map[string]any{"driver": "file", "filename": other},
		}, nil),
		q.Execute(ctx, "device_add", map[string]any{"driver": "scsi-hd", "bus": "scsi.0", "drive": "other", "serial": changing}, nil))
}

func swapped(ctx context.Context, q *qmp.Client, other string) error {
	return errors.Join(unplugged(ctx, q, other), joined(ctx, q, other))
}

// changes has the host change the guest's disk at a line of the console, while
// the guest stands still. The result is for after its run.
func (g *guest) changes(t *testing.T, path, line string, do change) (done <-chan error) {
	t.Helper()
	other := changed(t, path, 1<<20+17)
	g.extra = append(g.extra, "-drive", "if=none,format=raw,id="+changing+",file="+path, "-device", "virtio-scsi-pci,id=scsi",
		"-device", "scsi-hd,id=disk,drive="+changing+",serial="+changing)
	now, result := g.watch.on(line), make(chan error, 1)
	first := g.onStart
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		if first != nil {
			if err := first(ctx, q); err != nil {
				return err
			}
		}
		go func() {
			select {
			case <-now:
				result <- errors.Join(q.Execute(ctx, "stop", nil, nil), do(ctx, q, other), q.Execute(ctx, "cont", nil, nil))
			case <-ctx.Done():
				result <- fmt.Errorf("the console has no %q", line)
			}
		}()
		return nil
	}
	return result
}

// askedNow is when the guest has checked the LUKS header and asks for the key. It is
// not on the console, but in what the test sees of it.
const askedNow = "[the guest asks]"

// asksOnce makes the guest ask its owner, who answers when the disk has changed.
func (g *guest) asksOnce(t *testing.T) {
	t.Helper()
	a := newAnswering(t, g.entries...)
	g.asks(t, nil, a, "serial:ttyS2")
	asked := 0
	a.sends = func(k release.Kind, body []byte) []byte {
		if k == release.Hello {
			if asked++; asked == 1 {
				g.watch.Write([]byte(askedNow))
			}
			if asked < 4 { // one a second, of a guest that may stand still
				return nil
			}
		}
		return a.owner(t, k, body)
	}
}

// The image's disk becomes another: the guest ends, with nothing of a secret left, or
// does not notice what makes no difference. When the program runs, the first block
// that is not in memory stops it.
func TestDiskChanges(t *testing.T) {
	const starts = "cocoroot: starting"
	type attack struct {
		line string
		do   change
		code string // empty for any
	}
	all := map[string]attack{"swapped while the owner is asked": {askedNow, swapped, "DISK"}}
	for when, line := range map[string]string{"modules are loaded": initRuns, "it is found": "cocoroot: disk /dev/", "the owner is asked": askedNow, "the key is wiped": "disk key wiped", "the program runs": ran} {
		for what, do := range map[string]change{
			"cut": resized(1 << 20), "cut to nothing": resized(512), "grown": resized(1 << 30),
			"emptied": emptied, "unplugged": unplugged, "swapped": swapped, "joined": joined,
		} {
			name := what + " while " + when
			if _, ok := all[name]; !ok && (what != "joined" || line != initRuns) { // which may be in time for DISK-AMBIGUOUS
				all[name] = attack{line, do, ""}
			}
		}
	}
	for name, a := range some(t, all, "swapped while the owner is asked", "swapped while the program runs") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := recordingImage(t)
			g := s.boots(t)
			path := g.image
			g.put(t, read(t, path))
			path, g.image = g.image, ""
			g.diskName("serial:" + changing)
			if a.line == askedNow {
				g.asksOnce(t)
			}
			g.cmdline += " cocoroot.timeout=8s -- sleep 4 && cat /bin/recorder >/dev/null && echo boot-test: late file read"
			done := g.changes(t, path, a.line, a.do)
			_, left := g.searches(t, "", needlesOf(t, s.path, s.key))
			e := g.run(t, bootLimit)
			if err := <-done; err != nil {
				t.Errorf("cannot change the disk: %v", err)
			}
			g.wiped(t, e)
			harmless := strings.HasPrefix(name, "grown") || strings.HasPrefix(name, "joined")
			switch late := strings.Contains(e.console, "\nboot-test: late file read"); {
			case e.err != nil || late != harmless:
				t.Errorf("outcome = %+v, %v; the late file was read: %v", e.Outcome, e.err, late)
			case harmless:
				if e.Fatal != nil || e.Panic != "" {
					t.Errorf("outcome = %+v; want none", e.Outcome)
				}
			case a.line == ran:
				if !strings.Contains(e.Panic, "dm-verity device has I/O error") || e.Reason != "guest-reset" {
					t.Errorf("outcome = %+v; want dm-verity's panic", e.Outcome)
				}
			case strings.Contains(e.console, starts):
				t.Error("the image's program was started")
			case e.Fatal == nil || a.code != "" && string(e.Fatal.Code) != a.code:
				t.Errorf("FATAL = %+v; want %s", e.Fatal, a.code)
			case len(left()) > 0:
				t.Errorf("left in memory:\n%v", left())
			}
		})
	}
}

// A state disk becomes another while it is written. Writes that cannot reach it are
// errors, and nobody waits for them; at the next boot nothing is read that was not
// written there.
func TestStateDiskChanges(t *testing.T) {
	all := map[string]change{
		"cut to headers": resized(headers), "cut": resized(12 << 20), "grown": resized(2 * stateSize),
		"emptied": emptied, "unplugged": unplugged, "swapped": swapped, "joined": joined,
	}
	for name, do := range some(t, all, "cut to headers") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := stateGuest(t, recordingImage(t), "", "create db\n")
			g.disks = []launch.Disk{}
			g.cmdline = strings.Replace(g.cmdline, ",serial:db", ",serial:"+changing, 1)
			g.cmdline += " -- recorder keep /data 0 & sleep 12; ls /data >/dev/null && echo boot-test: ends"
			path := blankDisk(t, t.TempDir(), stateSize)
			done := g.changes(t, path, "boot-test: kept 40\r", do)
			e := g.runs(t)
			if err := <-done; err != nil {
				t.Errorf("cannot change the disk: %v", err)
			}
			refused := strings.Contains(e.console, "recorder: cannot write record") && strings.Contains(e.console, "input/output error")
			harmless := name == "grown" || name == "joined"
			if refused == harmless || !strings.Contains(e.console, "\nboot-test: ends") {
				t.Errorf("a write was refused: %v; the program goes on: %v", refused, strings.Contains(e.console, "\nboot-test: ends"))
			}
			if !soaking() {
				return
			}
			kept := keptRecord.FindAllStringSubmatch(e.console, -1)
			again := stateGuest(t, recordingImage(t), path, "")
			truncate(t, again, stateSize*2)
			again.cmdline += " -- recorder look /data " + kept[len(kept)-1][1]
			e = again.run(t, bootLimit)
			if e.err != nil || e.Panic != "" || strings.Contains(e.console, "neither its bytes") || e.Fatal != nil && !strings.HasPrefix(string(e.Fatal.Code), "STATE-") {
				t.Errorf("and then: %+v, %v", e.Outcome, e.err)
			}
		})
	}
}
