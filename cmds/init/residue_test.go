package main_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/policy"
)

// residueMemory is what the guests here have in MiB: all of it is searched.
const residueMemory = 256

// searchGuest looks for the needles in all of a guest's memory.
func searchGuest(ctx context.Context, t *testing.T, q *qmp.Client, needles []needle) (traces, error) {
	path := filepath.Join(t.TempDir(), "memory")
	args := map[string]any{"val": 0, "size": residueMemory << 20, "filename": path}
	if err := q.Execute(ctx, "pmemsave", args, nil); err != nil {
		return nil, err
	}
	defer os.Remove(path)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return search(f, needles)
}

// lookNow is what the image's program prints when the guest is to be searched.
const lookNow = "boot-test: search the memory now"

// searches has the guest's memory searched at a line of the console, unless
// that is empty, and when the guest has ended. The results are for after its run.
func (g *guest) searches(t *testing.T, line string, needles []needle) (atLine, atEnd func() traces) {
	t.Helper()
	g.memory = residueMemory
	// Each CPU keeps pages of its own back.
	g.cpus = 2
	var end traces
	g.onEnd = func(ctx context.Context, q *qmp.Client) (err error) {
		end, err = searchGuest(ctx, t, q, append(needles, g.learnt()...))
		return err
	}
	atEnd = func() traces { return end }
	if line == "" {
		return nil, atEnd
	}
	now := g.watch.on(line)
	found := make(chan traces, 1)
	first := g.onStart
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		if first != nil {
			if err := first(ctx, q); err != nil {
				return err
			}
		}
		go func() {
			defer close(found)
			select {
			case <-now:
			case <-ctx.Done():
				return
			}
			at, err := searchStopped(ctx, t, q, append(needles, g.learnt()...))
			if err != nil {
				t.Errorf("cannot search the memory at %q: %v", line, err)
				return
			}
			found <- at
		}()
		return nil
	}
	return func() traces { return <-found }, atEnd
}

// learnt returns the secrets that were found out while the guest ran.
func (g *guest) learnt() []needle {
	if g.learns == nil {
		return nil
	}
	return g.learns()
}

// searchStopped searches the memory of a running guest, which stands still meanwhile.
func searchStopped(ctx context.Context, t *testing.T, q *qmp.Client, needles []needle) (traces, error) {
	if err := q.Execute(ctx, "stop", nil, nil); err != nil {
		return nil, err
	}
	found, err := searchGuest(ctx, t, q, needles)
	if err != nil {
		return nil, err
	}
	return found, q.Execute(ctx, "cont", nil, nil)
}

// lookRoot makes a root whose program works a little, asks to be searched,
// and gives time for it.
func lookRoot(t *testing.T, dir string) string {
	return testRoot(t, dir, "ls -lR / >/dev/null 2>&1\necho \""+lookNow+"\"\nsleep 8\n")
}

// What a started guest may hold of the volume key, in bytes at each place:
// dm-crypt's own copy (struct crypt_config, key), and in the cipher's context
// (struct aesni_xts_ctx) the schedules of its two AES keys, each for both
// directions. The first rounds of the one are the key, 32 bytes; the last
// round of the other is the key's first half.
var kernelCopies = []int{16, 16, 32, 32, 64}

// The image's program runs: the kernel has the volume key, and nobody has
// anything else.
func TestResidueAfterStart(t *testing.T) {
	t.Parallel()
	t.Run("PBKDF2", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		s := seal(t, dir, lookRoot(t, dir))
		onlyKernelCopies(t, s.boots(t), needlesOf(t, s.path, s.key))
	})
	// Argon2's goroutines run outside of what clears its traces. The NUL
	// after the passphrase makes two derivations of it.
	t.Run("Argon2id, twice", func(t *testing.T) {
		t.Parallel()
		passphrase := []byte("a passphrase that somebody chose, of sixty-four characters here.")
		s := sealRoot(t, lookRoot(t, t.TempDir()), passphrase, format.Argon2id(1, 32<<10, 2))
		g := s.boots(t)
		injected := append(passphrase, 0)
		g.entries[0] = entry(t, policy.DefaultKey, injected)
		onlyKernelCopies(t, g, append(needlesOf(t, s.path, s.key), derivedFrom(t, s.path, injected)...))
	})
}

// kernelHasVolumeKey checks that the volume key lies where dm-crypt has it, and nowhere else.
func kernelHasVolumeKey(t *testing.T, when string, got traces) {
	t.Helper()
	var copies []int
	for _, p := range got[volumeKey] {
		copies = append(copies, p.bytes)
	}
	slices.Sort(copies)
	if !slices.Equal(copies, kernelCopies) {
		t.Errorf("%s: the volume key lies in memory in parts of %d bytes; want %d", when, copies, kernelCopies)
	}
}

func onlyKernelCopies(t *testing.T, g *guest, needles []needle) {
	t.Helper()
	during, after := g.searches(t, lookNow, needles)
	g.runs(t)
	for when, got := range map[string]traces{"while the program ran": during(), "at its end": after()} {
		kernelHasVolumeKey(t, when, got)
		if len(got) != 1 {
			t.Errorf("%s: there is more in memory than the volume key:\n%v", when, got)
		}
	}
}

// failure is a boot that fails.
type failure struct {
	change func(*testing.T, *guest)
	want   string
	held   string // line of the console at which the secrets are still in memory
}

// failures are boots that fail at different steps, with different things in memory.
func failures() map[string]failure {
	return map[string]failure{
		"before anything was read": {change: func(_ *testing.T, g *guest) { g.cmdline += " cocoroot.shell=1" }, want: "POLICY"},
		"no disk": {
			change: func(_ *testing.T, g *guest) {
				g.image = ""
				g.cmdline += " cocoroot.timeout=6s" // time for the search to begin
			},
			want: "DISK-ABSENT", held: "kernel modules loaded",
		},
		"changed header": {change: func(t *testing.T, g *guest) { g.image = changed(t, g.image, 128) }, want: "VERITY"},
		"changed data, with the key in the kernel": {
			change: func(t *testing.T, g *guest) { g.image = changed(t, g.image, 1<<20+17) },
			want:   "VERITY",
		},
		"wrong key": {
			change: func(t *testing.T, g *guest) { g.entries[0] = entry(t, policy.DefaultKey, wrongKey) },
			want:   "LUKS-KEY",
		},
		"refused header": {change: withoutLUKS, want: "LUKS-HEADER"},
		// A key derivation that the allow-list lets through, on a machine that is
		// too slow for it.
		"killed at the deadline": {
			change: func(t *testing.T, g *guest) {
				// The guest's clock runs by instructions, 128 ns each, so that
				// two of its minutes are some seconds here.
				g.extra = append(g.extra, "-icount", "shift=7,sleep=off")
				slow := sealedWith(t, format.PBKDF2(1e6))
				g.image, g.cmdline = slow.path, slow.cmdline
			},
			want: "DEADLINE",
		},
		// The child that unseals needs more memory than there is: the kernel kills
		// it, and not the first process.
		"out of memory": {
			change: func(t *testing.T, g *guest) {
				large := sealedWith(t, format.Argon2id(1, 96<<10, 1))
				g.image, g.cmdline = large.path, large.cmdline
				g.initrd = withBallast(t, g.initrd, 135<<20)
			},
			want: "CRASH",
		},
		"no program": {change: func(_ *testing.T, g *guest) { g.cmdline += " init=/sbin/absent" }, want: "ROOT-INIT"},
		"a program that cannot be executed, with a credential": {
			change: func(t *testing.T, g *guest) {
				dir := t.TempDir()
				root := testRoot(t, dir, "")
				write(t, filepath.Join(root, "sbin/init"), []byte("#!/absent\n"))
				key := filepath.Join(dir, "key")
				write(t, key, g.entries[0].Data.Bytes())
				s := seal(t, dir, root, "--key-file", key, "--allow", "no-init")
				g.image, g.cmdline = s.path, s.cmdline+" "+credentialWord
			},
			want: "SWITCH",
		},
		"half-way through switch_root": {
			change: func(t *testing.T, g *guest) {
				dir := t.TempDir()
				root := testRoot(t, dir, "")
				if err := os.Remove(filepath.Join(root, "run")); err != nil {
					t.Fatal(err)
				}
				key := filepath.Join(dir, "key")
				write(t, key, g.entries[0].Data.Bytes())
				s := seal(t, dir, root, "--append", "cocoroot.overlay=none", "--key-file", key)
				g.image, g.cmdline = s.path, s.cmdline
			},
			want: "SWITCH",
		},
	}
}

// wrongKey opens no image.
var wrongKey = []byte("8c1f9ae52d7730b4e6f1c0d29b5a4837a6d0c4e1f7b29358421de6cb0f97a35d")

// After a boot that failed there is nothing at all, the volume key included.
func TestResidueAfterFailure(t *testing.T) {
	t.Parallel()
	for name, f := range failures() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := standardImage(t)
			g := s.boots(t)
			other := []byte("what else was injected: 0b7c2f6de19a4853")
			g.entries = append(g.entries, entry(t, otherGUID, other))
			f.change(t, g)
			needles := append(forms("other entry", other), forms("wrong key", wrongKey)...)
			if image := g.image; image == "" || f.want == "LUKS-HEADER" {
				needles = append(needles, needlesOf(t, s.path, s.key)...)
			} else {
				needles = append(needles, needlesOf(t, g.image, s.key)...)
			}
			if f.want == "LUKS-KEY" {
				needles = append(needles, derivedFrom(t, s.path, wrongKey)...)
			}
			during, after := g.searches(t, f.held, needles)
			if e := g.fails(t, f.want); f.want == "CRASH" && e.Fatal != nil && !strings.Contains(e.Fatal.Text, "signal: killed") {
				t.Errorf("FATAL text = %q; want the child's death", e.Fatal.Text)
			}
			if left := after(); len(left) > 0 {
				t.Errorf("left in memory:\n%v", left)
			}
			// The same search finds what is there: the entries, in their page.
			if f.held != "" {
				got, area := during(), int64(secretArea(t, g.firmware).Base)
				want := traces{"passphrase": {{area + 40, 64}}, "other entry": {{area + 40 + 64 + 20, 32}}}
				if got.String() != want.String() {
					t.Errorf("at %q there was in memory:\n%vwant\n%v", f.held, got, want)
				}
			}
		})
	}
}

// withoutLUKS gives the guest a measured image that has no LUKS header.
func withoutLUKS(t *testing.T, g *guest) {
	t.Helper()
	data := bytes.Repeat([]byte("no LUKS header. "), 1<<20/16)
	p := standardImage(t).policy
	g.image, p.Image = withTree(t, data, nil)
	var err error
	if g.cmdline, err = cmdline.Build(p, cmdline.Options{}); err != nil {
		t.Fatal(err)
	}
}
