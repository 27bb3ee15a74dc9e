package main_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/sha3"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secret/table"
)

// eavesdropper reads the guest's private key out of its memory while it waits for
// the answer, which nobody could on SEV-SNP, and works out what the key opens.
type eavesdropper struct {
	client  *qmp.Client
	ctx     context.Context
	mu      sync.Mutex
	seed    []byte
	needles []needle
}

// eavesdrop has the answer wait until the key was found.
func (g *guest) eavesdrop(t *testing.T, a *answering) *eavesdropper {
	t.Helper()
	e := &eavesdropper{}
	g.memory = residueMemory
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		e.ctx, e.client = ctx, q
		return nil
	}
	g.learns = func() []needle {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.seed == nil {
			t.Error("the private key was not found where it must have been; the search looks for nothing")
		}
		return slices.Clone(e.needles)
	}
	sends := a.sends
	if sends == nil {
		sends = func(k release.Kind, body []byte) []byte { return a.owner(t, k, body) }
	}
	a.sends = func(k release.Kind, body []byte) []byte {
		if k == release.Ask {
			if err := e.find(t, publicOf(body)); err != nil {
				t.Errorf("cannot look for the private key: %v", err)
			}
		}
		out := sends(k, body)
		if k == release.Ask && len(out) > 9+64+1120 {
			e.open(t, out[9+64:][:1120])
		}
		return out
	}
	return e
}

// find looks for the seed at the start of each page: nothing else is in its page.
func (e *eavesdropper) find(t *testing.T, public []byte) error {
	path := filepath.Join(t.TempDir(), "memory")
	args := map[string]any{"val": 0, "size": residueMemory << 20, "filename": path}
	if err := e.client.Execute(e.ctx, "pmemsave", args, nil); err != nil {
		return err
	}
	defer os.Remove(path)
	memory, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for page := range slices.Chunk(memory, 4096) {
		seed := page[:32]
		if bytes.Count(page[32:], []byte{0}) != 4096-32 || bytes.Count(seed, []byte{0}) > 8 {
			continue
		}
		key, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
		if err != nil || !bytes.Equal(key.PublicKey().Bytes(), public) {
			continue
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.seed = bytes.Clone(seed)
		expanded := sha3.SumSHAKE256(seed, 64+32)
		e.needles = append(forms("private key", e.seed), needle{"ML-KEM seed", expanded[:64]}, needle{"X25519 key", expanded[64:]})
		return nil
	}
	return errors.New("it is not there")
}

// open works out the shared secrets of the encapsulated key.
func (e *eavesdropper) open(t *testing.T, enc []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seed == nil {
		return
	}
	expanded := sha3.SumSHAKE256(e.seed, 64+32)
	pq, err := mlkem.NewDecapsulationKey768(expanded[:64])
	if err != nil {
		t.Error(err)
		return
	}
	sharedPQ, err := pq.Decapsulate(enc[:1088])
	if err != nil {
		t.Error(err)
		return
	}
	own, err := ecdh.X25519().NewPrivateKey(expanded[64:])
	if err != nil {
		t.Error(err)
		return
	}
	peer, err := ecdh.X25519().NewPublicKey(enc[1088:])
	if err != nil {
		t.Error(err)
		return
	}
	shared, err := own.ECDH(peer)
	if err != nil {
		t.Error(err)
		return
	}
	both := sha3.Sum256(slices.Concat(sharedPQ, shared, enc[1088:], own.PublicKey().Bytes(), []byte(`\.//^\`)))
	e.needles = append(e.needles, needle{"ML-KEM's shared secret", sharedPQ}, needle{"X25519's shared secret", shared}, needle{"shared secret", both[:]})
}

// tableNeedle is the table without its first GUID, which programs have in them, up to
// the end of the first entry: the one that is not kept.
func tableNeedle(a *answering) needle {
	return needle{"table", a.table[16 : 20+binary.LittleEndian.Uint32(a.table[20+16:])]}
}

// The image's program runs: of the release nothing is left but the kept entry.
func TestResidueOfTheRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := seal(t, dir, lookRoot(t, dir))
	a := newAnswering(t, entry(t, policy.DefaultKey, s.key), entry(t, otherGUID, kept))
	g := s.boots(t).asks(t, nil, a, "serial:ttyS2")
	g.eavesdrop(t, a)
	during, after := g.searches(t, lookNow, slices.Concat(needlesOf(t, s.path, s.key), []needle{tableNeedle(a)}, forms("kept entry", kept)))
	g.runs(t)
	for when, got := range map[string]traces{"while the program ran": during(), "at its end": after()} {
		kernelHasVolumeKey(t, when, got)
		if n := len(got["kept entry"]); n != 1 {
			t.Errorf("%s: the kept entry is there %d times; want 1", when, n)
		}
		delete(got, volumeKey)
		delete(got, "kept entry")
		if len(got) > 0 {
			t.Errorf("%s: there is more in memory:\n%v", when, got)
		}
	}
}

// After a boot that failed nothing at all is left.
func TestResidueAfterRefusal(t *testing.T) {
	t.Parallel()
	for name, tc := range some(t, map[string]struct {
		change func(t *testing.T, g *guest, a *answering)
		want   string
	}{
		"refused": {func(t *testing.T, g *guest, a *answering) {
			a.sends = func(k release.Kind, body []byte) []byte {
				if k == release.Ask {
					return release.Append(nil, release.Refusal, nil)
				}
				return a.owner(t, k, body)
			}
		}, "RELEASE"},
		"a bad table": {func(t *testing.T, g *guest, a *answering) { a.table = append(a.table, 1) }, "RELEASE-FORM"},
		"a bad signature": {func(t *testing.T, g *guest, a *answering) {
			a.sends = func(k release.Kind, body []byte) []byte {
				out := a.owner(t, k, body)
				if k == release.Ask {
					out[9] ^= 1
				}
				return out
			}
		}, "RELEASE-FORM"},
		"another key": {func(t *testing.T, g *guest, a *answering) {
			a.table = tableBytes(t, []table.Entry{entry(t, policy.DefaultKey, wrongKey), entry(t, otherGUID, kept)})
		}, "LUKS-KEY"},
		"no report": {func(t *testing.T, g *guest, a *answering) {
			g.initrd = standardImage(t).boots(t).initrd
		}, "ATTEST"},
		"no answer": {func(t *testing.T, g *guest, a *answering) {
			g.cmdline += " cocoroot.timeout=6s"
			a.sends = func(k release.Kind, body []byte) []byte {
				if k == release.Ask {
					return nil
				}
				return a.owner(t, k, body)
			}
		}, "RELEASE"},
		"no program": {func(t *testing.T, g *guest, a *answering) { g.cmdline += " init=/sbin/absent " + credentialWord }, "ROOT-INIT"},
	}, "refused", "a bad table", "no answer", "no program") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := standardImage(t)
			g, a := askingGuest(t, nil, "serial:ttyS2")
			tc.change(t, g, a)
			if tc.want != "ATTEST" { // or else nothing is asked
				g.eavesdrop(t, a)
			}
			needles := slices.Concat(needlesOf(t, s.path, s.key), []needle{tableNeedle(a)}, forms("kept entry", kept), forms("wrong key", wrongKey))
			_, after := g.searches(t, "", needles)
			g.fails(t, tc.want)
			if left := after(); len(left) > 0 {
				t.Errorf("left in memory:\n%v", left)
			}
		})
	}
}
