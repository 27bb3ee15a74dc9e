package main_test

import (
	"bytes"
	"crypto/ed25519"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/snptest"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/release"
)

// kept is an entry that the workload keeps.
var kept = []byte("what else was released: 7f1d90ab35e2c846")

// askingGuest is a guest of the standard image whose owner is a.
func askingGuest(t *testing.T, psp *snptest.PSP, channel string) (*guest, *answering) {
	t.Helper()
	return standardImage(t).boots(t).askingItsOwner(t, psp, channel)
}

func (g *guest) askingItsOwner(t *testing.T, psp *snptest.PSP, channel string) (*guest, *answering) {
	t.Helper()
	a := newAnswering(t, entry(t, policy.DefaultKey, standardImage(t).key), entry(t, otherGUID, kept))
	return g.asks(t, psp, a, channel), a
}

// A guest gets its key over each channel, the workload its entry, and the owner the
// confirmation: with our kernel, and with Debian's as it is, which has neither
// efi_secret nor an IP_PNP.
func TestAsks(t *testing.T) {
	t.Parallel()
	const fixed = " ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off"
	for name, tc := range some(t, map[string]struct{ channel, append, kernel string }{
		"serial":                     {channel: "serial:ttyS2"},
		"virtio":                     {channel: "virtio:org.cocoroot.release"},
		"tcp, address by the kernel": {channel: "tcp", append: " ip=dhcp"},
		"tcp, fixed address":         {channel: "tcp", append: fixed},
		"Debian, serial":             {channel: "serial:ttyS2", kernel: "debian13-kernel"},
		"Debian, virtio":             {channel: "virtio:org.cocoroot.release", kernel: "debian13-kernel"},
		"Debian, tcp":                {channel: "tcp", append: fixed, kernel: "debian13-kernel"},
	}, "serial", "virtio", "tcp, address by the kernel", "Debian, tcp") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind, _, _ := strings.Cut(tc.channel, ":")
			g := standardImage(t).boots(t)
			dir := oracle.Artifact(t, "modules")
			if tc.kernel != "" {
				dir = oracle.Fixture(t, tc.kernel)
				g.kernel, g.fakeTSM = filepath.Join(dir, "bzImage"), filepath.Join(dir, "fake_tsm.ko")
			}
			var said string
			if g.initrd, said = withModules(t, dir, "--channel", kind); strings.Contains(said, "warning") {
				t.Errorf("cocoroot initrd --channel %s said %q", kind, said)
			}
			g.cmdline += tc.append
			g, a := g.askingItsOwner(t, nil, tc.channel)
			e := g.runs(t)
			if !a.confirmed {
				t.Error("the owner got no confirmation, or another one")
			}
			if want := "boot-test: kept " + otherGUID.String() + " \n"; !strings.Contains(strings.ReplaceAll(e.console, "\r", ""), want) {
				t.Errorf("the workload does not find exactly its entry in /run/cocoroot/secrets: %q", want)
			}
			if !strings.Contains(e.console, `boot-test: secrets   "from": "`+strings.SplitN(tc.channel, ":", 2)[0]) {
				t.Error("status.json does not say how the secrets came")
			}
			if !strings.Contains(e.console, "asking the owner over "+kind) {
				t.Error("the guest does not say whom it asks")
			}
		})
	}
}

// An owner who comes late, and goes and comes back, is waited for.
func TestOwnerIsLate(t *testing.T) {
	t.Parallel()
	g, a := askingGuest(t, nil, "serial:ttyS2")
	late := after(10 * time.Second)
	a.sends = func(k release.Kind, body []byte) []byte {
		if !late() {
			return nil
		}
		return a.owner(t, k, body)
	}
	g.runs(t)
}

// What the host can do to the report ends the boot, and nothing is asked.
func TestNoReport(t *testing.T) {
	t.Parallel()
	chip := snptest.NewChip("Genoa-B1", snptest.TCB{SNP: 23})
	for name, change := range some(t, map[string]func(snptest.Answer) snptest.Answer{
		"EIO":      func(snptest.Answer) snptest.Answer { return snptest.Answer{Errno: syscall.EIO} },
		"ENOTTY":   func(snptest.Answer) snptest.Answer { return snptest.Answer{Errno: syscall.ENOTTY} },
		"short":    func(a snptest.Answer) snptest.Answer { a.Report = a.Report[:1183]; return a },
		"long":     func(a snptest.Answer) snptest.Answer { a.Report = append(a.Report, 0); return a },
		"others":   func(a snptest.Answer) snptest.Answer { a.Others = 1; return a },
		"its data": func(a snptest.Answer) snptest.Answer { a.Report[0x50] ^= 1; return a },
	}, "EIO", "others", "its data") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			psp := &snptest.PSP{Chip: chip, Answer: func(_ int, _ snptest.Request, a snptest.Answer) snptest.Answer { return change(a) }}
			g, a := askingGuest(t, psp, "serial:ttyS2")
			g.fails(t, "ATTEST")
			if len(a.requests) > 0 {
				t.Error("the guest asked without a report")
			}
		})
	}
	t.Run("no provider", func(t *testing.T) {
		t.Parallel()
		g, a := askingGuest(t, nil, "serial:ttyS2")
		g.initrd = standardImage(t).boots(t).initrd // without the fake one
		g.fails(t, "ATTEST")
		if len(a.requests) > 0 {
			t.Error("the guest asked without a report")
		}
	})
}

// An answer that is not the owner's to this request, or whose table is malformed,
// ends the boot.
func TestAnswerRefused(t *testing.T) {
	t.Parallel()
	var recorded []byte // of another boot
	t.Run("record", func(t *testing.T) {
		g, a := askingGuest(t, nil, "serial:ttyS2")
		g.runs(t)
		recorded = a.answers[0]
	})
	_, stranger, _ := ed25519.GenerateKey(nil)
	answers := map[string]struct {
		change func(t *testing.T, a *answering, request []byte) []byte
		want   string
	}{
		"another key": {func(t *testing.T, a *answering, r []byte) []byte {
			other := answering{private: stranger, table: a.table}
			b, _ := other.answer(t, r)
			return b
		}, "RELEASE-FORM"},
		"another boot's": {func(*testing.T, *answering, []byte) []byte { return recorded }, "RELEASE-FORM"},
		"cut":            {func(t *testing.T, a *answering, r []byte) []byte { b, _ := a.answer(t, r); return b[:len(b)-1] }, "RELEASE-FORM"},
		"empty":          {func(*testing.T, *answering, []byte) []byte { return nil }, "RELEASE-FORM"},
		"another suite": {func(t *testing.T, a *answering, r []byte) []byte {
			r = bytes.Clone(r)
			r[4+release.ChallengeSize+4+4]++ // AES-256-GCM becomes ChaCha20Poly1305
			b, _ := a.answer(t, r)
			return b
		}, "RELEASE-FORM"},
		"no entry":   {withTable(func([]byte) []byte { return emptyTable }), "SECRET-ABSENT"},
		"no table":   {withTable(func([]byte) []byte { return []byte("no table") }), "RELEASE-FORM"},
		"64 entries": {withTable(func([]byte) []byte { return manyEntries(64) }), "RELEASE-FORM"},
		"63 entries": {withTable(func([]byte) []byte { return manyEntries(63) }), "SECRET-ABSENT"},
	}
	for name, tc := range some(t, answers, "another key", "another boot's", "no entry", "64 entries") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, a := askingGuest(t, nil, "serial:ttyS2")
			a.sends = func(k release.Kind, body []byte) []byte {
				if k != release.Ask {
					return a.owner(t, k, body)
				}
				return release.Append(nil, release.Answer, tc.change(t, a, body))
			}
			g.fails(t, tc.want)
			if a.confirmed {
				t.Error("the guest says that it opened the table")
			}
		})
	}
}

func withTable(change func([]byte) []byte) func(*testing.T, *answering, []byte) []byte {
	return func(t *testing.T, a *answering, r []byte) []byte {
		other := answering{private: a.private, table: change(a.table)}
		b, _ := other.answer(t, r)
		return b
	}
}

// A host that refuses, cuts the line, floods it, or says nothing.
func TestHostOfTheChannel(t *testing.T) {
	t.Parallel()
	for name, tc := range some(t, map[string]struct {
		reply func(a *answering, k release.Kind, body []byte) []byte
		want  string
	}{
		"refuses": {func(a *answering, k release.Kind, body []byte) []byte {
			if k == release.Ask {
				return release.Append(nil, release.Refusal, nil)
			}
			return release.Append(nil, release.Challenge, testChallenge)
		}, "RELEASE"},
		"says nothing": {func(*answering, release.Kind, []byte) []byte { return nil }, "RELEASE"},
		"hangs up in the middle of the answer": {func(a *answering, k release.Kind, body []byte) []byte {
			a.hangsUp = true
			return a.owner(nil, k, body)
		}, "RELEASE"},
		"floods": {func(*answering, release.Kind, []byte) []byte {
			return bytes.Repeat([]byte("CCR1 is no frame"), 5<<20/16)
		}, "RELEASE"},
		"announces more than allowed": {func(*answering, release.Kind, []byte) []byte {
			return length(release.Append(nil, release.Answer, make([]byte, 100)), 1<<31)
		}, "RELEASE"},
	}, "hangs up in the middle of the answer", "floods") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, a := askingGuest(t, nil, "serial:ttyS2")
			g.cmdline += " cocoroot.timeout=3s"
			a.sends = func(k release.Kind, body []byte) []byte { return tc.reply(a, k, body) }
			g.fails(t, tc.want)
		})
	}
}

// emptyTable has a header and nothing else.
var emptyTable = tableWithLength(20, nil)

func tableWithLength(n int, entries []byte) []byte {
	return append([]byte{0x42, 0xf5, 0x74, 0x1e, 0xdd, 0x71, 0x66, 0x4d, 0x96, 0x3e, 0xef, 0x42, 0x87, 0xff, 0x17, 0x3b,
		byte(n), byte(n >> 8), 0, 0}, entries...)
}

// manyEntries is a table of n entries, none of which is the key.
func manyEntries(n int) []byte {
	var all []byte
	for i := range n {
		all = append(all, append(bytes.Repeat([]byte{byte(i + 1)}, 16), 21, 0, 0, 0, 'x')...)
	}
	return tableWithLength(20+len(all), all)
}
