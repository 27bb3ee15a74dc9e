package main_test

import (
	"crypto/hkdf"
	"crypto/sha256"
	"path/filepath"
	"slices"
	"testing"

	"cocoroot/initramfs/launch"
	"cocoroot/unlock/state"
)

// stateNeedles derives the keys of the state on a disk, as cmds/init/README.md says.
func stateNeedles(t *testing.T, disk string) []needle {
	t.Helper()
	h, err := state.Decode(readAt(t, disk, 0, state.HeaderSize))
	if err != nil {
		t.Fatal(err)
	}
	derive := func(label string, salt []byte, n int) []byte {
		key, err := hkdf.Key(sha256.New, stateSecret, salt, "cocoroot/state/v1/"+label+"\x00"+h.Name, n)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	auth := derive("hmac-sha256", h.Salt[:], 32)
	return slices.Concat(
		forms("header key of "+h.Name, derive("header", nil, 32)),
		forms("cipher key of "+h.Name, derive("aes-xts", h.Salt[:], 64)),
		forms("HMAC key of "+h.Name, auth),
		forms("HMAC's inner pad of "+h.Name, xor(auth, 0x36)),
		forms("HMAC's outer pad of "+h.Name, xor(auth, 0x5c)),
	)
}

func xor(key []byte, with byte) []byte {
	out := make([]byte, len(key))
	for i, b := range key {
		out[i] = b ^ with
	}
	return out
}

// stateCopies are what a started guest holds of a state's cipher key, in bytes at each
// place: the schedules of the two AES keys, as for the root (kernelCopies). A key that
// came from the keyring dm-crypt does not keep.
var stateCopies = []int{16, 16, 32, 32}

// kernelHasStateKey checks that the cipher key of a state lies where the cipher has it,
// and takes that out.
func kernelHasStateKey(t *testing.T, when, name string, got traces) {
	t.Helper()
	what := "cipher key of " + name
	var copies []int
	for _, p := range got[what] {
		copies = append(copies, p.bytes)
	}
	slices.Sort(copies)
	if !slices.Equal(copies, stateCopies) {
		t.Errorf("%s: the %s lies in memory in parts of %d bytes; want %d", when, what, copies, stateCopies)
	}
	delete(got, what)
}

// The image's program runs, with one state that was there and one that was made: the
// kernel's ciphers have the keys of their blocks, and nobody has anything else.
func TestResidueOfStates(t *testing.T) {
	t.Parallel()
	for name, asks := range some(t, map[string]bool{"injected": false, "released": true}, "released") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stateImage(t)
			disk, fresh := firstDisk(t), blankDisk(t, t.TempDir(), stateSize)
			dir := t.TempDir()
			root := stateRoot(t, dir)
			write(t, filepath.Join(root, "sbin/init"), []byte("#!/bin/sh\nPATH=/bin\necho \""+ran+"\"\n"+
				"ls -lR / >/dev/null 2>&1\ncat /data/* >/dev/null\necho x >/logs/x\nsync\necho \""+lookNow+"\"\nsleep 8\npoweroff -f\n"))
			s := seal(t, dir, root)
			const orders = "floor db 1\ncreate logs\n"
			g := stateGuest(t, s, disk, orders)
			g.cmdline += " cocoroot.state=logs,/logs,serial:logs"
			g.disks = append(g.disks, launch.Disk{Path: fresh, Serial: "logs", Writable: true})
			needles := slices.Concat(needlesOf(t, s.path, s.key), stateNeedles(t, disk), forms("state secret", stateSecret), forms("orders", []byte(orders)))
			if asks {
				a := newAnswering(t, g.entries...)
				g.asks(t, nil, a, "serial:ttyS2")
				g.eavesdrop(t, a)
				needles = append(needles, tableNeedle(a))
			}
			released := g.learns
			g.learns = func() []needle {
				out := stateNeedles(t, fresh) // the header is on the disk by now
				if released != nil {
					out = append(out, released()...)
				}
				return out
			}
			during, after := g.searches(t, lookNow, needles)
			e := g.runs(t)
			if !asks {
				g.wiped(t, e)
			}
			for when, got := range map[string]traces{"while the program ran": during(), "at its end": after()} {
				kernelHasVolumeKey(t, when, got)
				delete(got, volumeKey)
				kernelHasStateKey(t, when, "db", got)
				kernelHasStateKey(t, when, "logs", got)
				if len(got) > 0 {
					t.Errorf("%s: there is more in memory:\n%v", when, got)
				}
			}
		})
	}
}
