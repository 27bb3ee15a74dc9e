package main_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/unlock/verity"
)

// What a device reads and writes in a confidential guest lies in bounce
// buffers (swiotlb), which the host sees. Linux fills them with what is in the
// destination of a read before it asks the device (swiotlb_tbl_map_single in
// kernel/dma/swiotlb.c of Linux 6.12), so the destination must never hold
// plaintext.

// ways are those in which a program can read a file (testdata/reader).
var ways = []string{"blocks", "large", "sequential", "willneed", "map", "hugepages"}

// bounceArguments has the kernel use the buffers without SEV, few of them, and
// say where it puts them: 2,048 of 2 KiB.
const (
	bounceArguments = "swiotlb=2048,force memblock=debug loglevel=7"
	bounceSize      = 2048 << 11
)

// hostVirtio is a device whose requests hold one part of a split read: the
// length of its queue is the host's, and bounds a request's segments.
const hostVirtio = "virtio-blk-pci,drive=host,disable-legacy=on,iommu_platform=on,queue-size=64"

// ioError is dm-verity's panic at a read that failed.
const ioError = "dm-verity device has I/O error"

// A host fails every other large read once and looks into the bounce buffers
// whenever it is asked for something: it finds none of what the guest reads. The
// guest stops when it could not do without such a read: of squashfs at the first
// one, of the others when the kernel had made one request of two reads.
func TestNoPlaintextInBounceBuffers(t *testing.T) {
	t.Parallel()
	for kind, least := range map[string]int{"squashfs": 1, "erofs": 5, "ext4": 5} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			plaintext := needlesIn{step: 64}
			g, hashes := bounced(t, kind, &plaintext)
			ciphertext := needlesIn{step: verity.BlockSize}
			ciphertext.add(read(t, g.image))
			ctx, buffers := g.looks(t)
			refused := make(map[uint64]bool)
			reads := 0
			var blind error
			d := serveDisk(t, g.image, func(offset uint64, data []byte) verdict {
				if !g.watch.has("boot-test: reading " + ways[0]) {
					return answered
				}
				memory, err := buffers()
				if err != nil {
					if ctx().Err() == nil {
						blind = err
					}
					return answered
				}
				plaintext.search(memory)
				if ciphertext.bytes() == 0 {
					ciphertext.search(memory) // what must be there is
				}
				reads++
				if offset < hashes && len(data) > verity.BlockSize && reads%2 == 0 && !refused[offset] {
					refused[offset] = true
					return failed
				}
				return answered
			})
			g.image, g.extra = "", d.as(hostVirtio)
			e := g.run(t, 2*bootLimit)
			d.release()
			if blind != nil {
				t.Fatalf("cannot read the bounce buffers: %v", blind)
			}
			t.Logf("%d reads, %d of them failed: %d bytes of plaintext", reads, len(refused), plaintext.bytes())
			if n := plaintext.bytes(); n > 0 {
				t.Errorf("the host found %d bytes of plaintext", n)
			}
			if ciphertext.bytes() == 0 || len(refused) < least {
				t.Errorf("the host saw no ciphertext either, or failed fewer than %d reads", least)
			}
			if e.err != nil || !strings.Contains(e.console, "boot-test: all read") && !strings.Contains(e.Panic, ioError) {
				t.Errorf("outcome = %+v, %v; want all files read, or dm-verity's panic", e.Outcome, e.err)
			}
		})
	}
}

// A read that the guest cannot do without, and the disk fails it: the guest
// stops, as it does at a changed block.
func TestReadErrorStopsTheGuest(t *testing.T) {
	t.Parallel()
	plaintext := needlesIn{step: 64}
	g, _ := bounced(t, "ext4", &plaintext)
	d := serveDisk(t, g.image, func(uint64, []byte) verdict {
		if g.watch.has("boot-test: reading " + ways[0]) {
			return failed
		}
		return answered
	})
	g.image, g.extra = "", d.as(hostVirtio)
	e := g.run(t, bootLimit)
	if !strings.Contains(e.Panic, ioError) || strings.Contains(e.console, "boot-test: all read") {
		t.Errorf("outcome = %+v, %v; want dm-verity's panic", e.Outcome, e.err)
	}
}

// bounced returns a guest whose program reads a file in each of the ways, and
// where on its disk the hash tree begins. What stands in the files is added to
// the needles.
func bounced(t *testing.T, kind string, plaintext *needlesIn) (g *guest, hashes uint64) {
	t.Helper()
	dir := t.TempDir()
	script := ""
	for _, way := range ways {
		script += fmt.Sprintf("echo 'boot-test: reading %s'\n/bin/reader %s /%s || echo 'boot-test: not read'\n", way, way, way)
	}
	root := testRoot(t, dir, script+"echo 'boot-test: all read'")
	for i, way := range ways {
		data := make([]byte, 256<<10)
		rand.New(rand.NewSource(int64(100 + i))).Read(data) // no compression changes it
		write(t, filepath.Join(root, way), data)
		plaintext.add(data)
	}
	buildProgram(t, root, "reader")
	s := seal(t, dir, root, "--fs", kind, "--append", bounceArguments)
	return s.boots(t), s.policy.Image.HashStart() * verity.BlockSize
}

// taken is what the kernel says when it takes the memory for its buffers.
var taken = regexp.MustCompile(fmt.Sprintf(`memblock_alloc_try_nid: %d bytes align=0x1000 [^\n]*\n[^\n]*memblock_reserve: \[0x([0-9a-f]+)-`, bounceSize))

// looks returns how a host looks into the guest's bounce buffers while it runs,
// and the context that ends with the guest.
func (g *guest) looks(t *testing.T) (running func() context.Context, buffers func() ([]byte, error)) {
	var client *qmp.Client
	ctx := t.Context()
	started := make(chan struct{})
	path := filepath.Join(t.TempDir(), "buffers")
	g.onStart = func(c context.Context, q *qmp.Client) error {
		ctx, client = c, q
		close(started)
		return nil
	}
	return func() context.Context { return ctx }, func() ([]byte, error) {
		<-started
		m := taken.FindStringSubmatch(g.watch.all())
		if m == nil {
			return nil, errors.New("the console does not say where they are")
		}
		base, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil {
			return nil, err
		}
		args := map[string]any{"val": base, "size": bounceSize, "filename": path}
		if err := client.Execute(ctx, "pmemsave", args, nil); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	}
}

// needlesIn finds parts of known data wherever they lie in memory: one in
// every step bytes of the data stands for all of them.
type needlesIn struct {
	step  int
	parts map[uint64]bool // the first eight bytes: whether they were seen
	maybe [1 << 18]byte   // a bit for a hash of each
}

func bit(v uint64) (int, byte) {
	h := v * 0x9e3779b97f4a7c15 >> 43
	return int(h >> 3), 1 << (h & 7)
}

func (n *needlesIn) add(data []byte) {
	if n.parts == nil {
		n.parts = make(map[uint64]bool)
	}
	for ; len(data) >= n.step; data = data[n.step:] {
		if v := binary.LittleEndian.Uint64(data); !bytes.Equal(data[:8], make([]byte, 8)) {
			n.parts[v] = false
			at, b := bit(v)
			n.maybe[at] |= b
		}
	}
}

func (n *needlesIn) search(memory []byte) {
	for i := 0; i+8 <= len(memory); i++ {
		v := binary.LittleEndian.Uint64(memory[i:])
		if at, b := bit(v); n.maybe[at]&b == 0 {
			continue
		}
		if _, is := n.parts[v]; is {
			n.parts[v] = true
		}
	}
}

// bytes returns how much of the data was seen.
func (n *needlesIn) bytes() int {
	sum := 0
	for _, seen := range n.parts {
		if seen {
			sum += n.step
		}
	}
	return sum
}

func TestNeedles(t *testing.T) {
	data := make([]byte, 1<<16)
	rand.New(rand.NewSource(1)).Read(data)
	n := needlesIn{step: 64}
	n.add(data)
	memory := make([]byte, 1<<17)
	n.search(memory)
	if got := n.bytes(); got != 0 {
		t.Errorf("found %d bytes in nothing", got)
	}
	copy(memory[13:], data[64*10:64*30])
	if n.search(memory); n.bytes() != 64*20 {
		t.Errorf("found %d bytes; want %d", n.bytes(), 64*20)
	}
}
