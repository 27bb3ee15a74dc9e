package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret"
)

// shellStarts is the last line before the shell.
const shellStarts = "the guest powers off when the shell ends"

// A debug archive shows GUIDs and lengths, wipes, and then obeys what is
// typed. The shell is on the second serial line, at whose other end the test
// sits.
func TestDebugArchive(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	g.initrd = oracle.Artifact(t, "debug.img")
	g.entries = append(g.entries, entry(t, otherGUID, []byte("a secret for the workload")))
	// The kernel's own messages would stand in the middle of what the shell says.
	g.cmdline = strings.NewReplacer("console=ttyS0", "console=ttyS1", " loglevel=7", "").Replace(g.cmdline)
	socket := filepath.Join(t.TempDir(), "ttyS1")
	g.extra = []string{"-chardev", "socket,id=typed,server=on,wait=off,path=" + socket, "-serial", "chardev:typed"}

	var (
		heard bytes.Buffer
		page  []byte // the secret area while the shell runs
		typed = make(chan error, 1)
	)
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		line, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		go func() {
			defer line.Close()
			typed <- func() error {
				if err := expect(line, &heard, shellStarts); err != nil {
					return err
				}
				var err error
				area := secretArea(t, g.firmware)
				if page, err = readMemory(ctx, t, q, uint64(area.Base), uint64(area.Size)); err != nil {
					return err
				}
				for _, say := range [][2]string{
					{"echo shell says $((6*7))", "shell says 42\r\n"},
					{"echo entries: $(ls /sys/kernel/security/secrets/coco)", "entries:\r\n"},
					{"exit", "the shell has ended"},
				} {
					if _, err := fmt.Fprintln(line, say[0]); err != nil {
						return err
					}
					if err := expect(line, &heard, say[1]); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
		return nil
	}
	e := g.run(t, bootLimit)
	if e.err != nil || e.Reason != "guest-shutdown" || e.Panic != "" {
		t.Errorf("outcome = %+v, %v; want a power-off", e.Outcome, e.err)
	}
	if err := <-typed; err != nil {
		t.Errorf("at the shell: %v; the line had\n%s", err, heard.Bytes())
	}
	if n := strings.Count(heard.String(), "THIS IS A DEBUG ARCHIVE"); n != 2 {
		t.Errorf("the banner was seen %d times; want 2", n)
	}
	for _, want := range []string{
		policy.DefaultKey.String() + ": 64 bytes", otherGUID.String() + ": 25 bytes", "every entry was removed",
	} {
		if !strings.Contains(heard.String(), want) {
			t.Errorf("the line lacks %q", want)
		}
	}
	for _, n := range g.entries {
		if data := n.Data.Bytes(); bytes.Contains(heard.Bytes(), data) || strings.Contains(e.console, string(data)) {
			t.Errorf("the value of %s was shown", n.GUID)
		}
	}
	// Before anything was typed, the page had neither values nor names.
	const head = 20 // the table's own header stays
	if len(page) < head || !bytes.Equal(page[head:head+20+64], wipedEntry(64)) {
		t.Errorf("the secret area while the shell ran = %x…; want a wiped entry", page[:min(len(page), 128)])
	}
	e.page = append(e.page, page...)
	g.wiped(t, e)
	if strings.Contains(heard.String(), ran) {
		t.Error("the image's program ran")
	}
}

// wipedEntry is what the kernel leaves of an entry with n bytes of data: its length.
func wipedEntry(n byte) []byte {
	b := make([]byte, 20+int(n))
	b[16] = 20 + n
	return b
}

// expect reads from the line into heard until text has come after what was
// there before.
func expect(line net.Conn, heard *bytes.Buffer, text string) error {
	from := heard.Len()
	for b := make([]byte, 4096); !bytes.Contains(heard.Bytes()[from:], []byte(text)); {
		n, err := line.Read(b)
		heard.Write(b[:n])
		if err != nil {
			return errors.Join(fmt.Errorf("no %q came", text), err)
		}
	}
	return nil
}

// What the kernel does not show cannot be removed: there is no shell.
func TestDebugArchiveWithoutWipe(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*testing.T, *guest)
		want   string
	}{
		"a table that it does not take": {func(_ *testing.T, g *guest) {
			g.table = tableOf(g.entries, 0, false)
			g.table[16+1] = 0xff // longer than the area
		}, "SECRET-TABLE"},
		"more entries than it shows": {func(t *testing.T, g *guest) {
			for i := range byte(secret.MaxEntries) {
				g.entries = append(g.entries, entry(t, efi.GUID{i, 1}, nil))
			}
			g.entries = append(g.entries, entry(t, otherGUID, []byte("an entry after the last one that is shown")))
			g.table = tableOf(g.entries, 0, false)
		}, "WIPE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.initrd = oracle.Artifact(t, "debug.img")
			tc.change(t, g)
			if e := g.fails(t, tc.want); strings.Contains(e.console, shellStarts) {
				t.Error("the shell was started")
			}
		})
	}
}
