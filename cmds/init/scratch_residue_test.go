package main_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/binary"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

	"cocoroot/initramfs/launch/qmp"
)

// The key of a scratch disk is the kernel's secret. But in the memory of a guest
// AES keys can be seen, for a key's schedule follows a rule that nothing else
// does; and the disk says which of them are its own.

// scratchSuper is where the superblock of btrfs lies on a scratch disk, and
// where in the volume: after the block that the guest has in memory, a section
// of the journal and a run of tags.
const (
	volumeSuper  = 64 << 10
	scratchSuper = (8+264+256)*512 + volumeSuper
)

// scheduleKeys returns the keys of all schedules of AES-256 in memory.
func scheduleKeys(memory []byte) [][32]byte {
	var out [][32]byte
	for at := 0; at+240 <= len(memory); at += 4 {
		if key, ok := schedule(memory[at:]); ok && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// schedule tells whether b begins with the round keys of AES-256 (FIPS 197,
// section 5.2), and returns the key, which they begin with.
func schedule(b []byte) (key [32]byte, ok bool) {
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	rcon := uint32(1)
	for i := 8; i < 60; i++ {
		w := word(i - 1)
		switch i % 8 {
		case 0:
			w = substitute(bits.RotateLeft32(w, 8)) ^ rcon<<24
			rcon <<= 1
		case 4:
			w = substitute(w)
		}
		if word(i) != word(i-8)^w {
			return key, false
		}
	}
	copy(key[:], b)
	return key, true
}

// substitute puts each byte through the S-box.
func substitute(w uint32) uint32 {
	var out uint32
	for shift := 0; shift < 32; shift += 8 {
		out |= uint32(sbox[byte(w>>shift)]) << shift
	}
	return out
}

var sbox = makeSbox()

// makeSbox computes it: the inverse in the field of AES, and an affine map.
func makeSbox() (box [256]byte) {
	p, q := byte(1), byte(1)
	for {
		double := p << 1
		if p&0x80 != 0 {
			double ^= 0x1b
		}
		p ^= double // times 3
		q ^= q << 1 // divided by 3
		q ^= q << 2
		q ^= q << 4
		if q&0x80 != 0 {
			q ^= 0x09
		}
		box[p] = q ^ bits.RotateLeft8(q, 1) ^ bits.RotateLeft8(q, 2) ^ bits.RotateLeft8(q, 3) ^ bits.RotateLeft8(q, 4) ^ 0x63
		if p == 1 {
			box[0] = 0x63
			return box
		}
	}
}

func TestScheduleKeys(t *testing.T) {
	if sbox[0x53] != 0xed {
		t.Fatalf("S-box of 53 = %x; want ed", sbox[0x53])
	}
	// FIPS 197, appendix A.3: the key and what follows it.
	key := []byte("\x60\x3d\xeb\x10\x15\xca\x71\xbe\x2b\x73\xae\xf0\x85\x7d\x77\x81\x1f\x35\x2c\x07\x3b\x61\x08\xd7\x2d\x98\x10\xa3\x09\x14\xdf\xf4")
	memory := make([]byte, 4096)
	at := memory[100:]
	copy(at, key)
	rcon := uint32(1)
	for i := 8; i < 60; i++ {
		w := binary.BigEndian.Uint32(at[4*i-4:])
		if i%8 == 0 {
			w = substitute(bits.RotateLeft32(w, 8)) ^ rcon<<24
			rcon <<= 1
		} else if i%8 == 4 {
			w = substitute(w)
		}
		binary.BigEndian.PutUint32(at[4*i:], binary.BigEndian.Uint32(at[4*i-32:])^w)
	}
	if want := []byte("\x70\x6c\x63\x1e"); !bytes.Equal(at[236:240], want) {
		t.Errorf("the last word is %x; want %x", at[236:240], want)
	}
	if got := scheduleKeys(memory); len(got) != 1 || !bytes.Equal(got[0][:], key) {
		t.Errorf("scheduleKeys = %x; want %x", got, key)
	}
}

// diskKey returns which two of the keys in memory, if any, are those with which
// the disk is encrypted.
func diskKey(t *testing.T, memory []byte, disk string) []byte {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block, plain := make([]byte, 4096), make([]byte, 4096)
	if _, err := f.ReadAt(block, scratchSuper); err != nil {
		t.Fatal(err)
	}
	keys := scheduleKeys(memory)
	if len(keys) < 2 {
		t.Errorf("%d AES keys in memory; want those of two ciphers, or what took their place", len(keys))
	}
	for _, first := range keys {
		for _, second := range keys {
			key := slices.Concat(first[:], second[:])
			c, err := xts.NewCipher(aes.NewCipher, key)
			if err != nil {
				t.Fatal(err)
			}
			if c.Decrypt(plain, block, volumeSuper/512); string(plain[0x40:0x48]) == "_BHRfS_M" {
				return key
			}
		}
	}
	return nil
}

// memoryAt reads all of a guest's memory at a line of the console, unless that
// is empty, and when it has ended.
func (g *guest) memoryAt(t *testing.T, line string) (atLine, atEnd func() []byte) {
	t.Helper()
	g.memory, g.cpus = residueMemory, 2
	var end []byte
	g.onEnd = func(ctx context.Context, q *qmp.Client) (err error) {
		end, err = readMemory(ctx, t, q, 0, residueMemory<<20)
		return err
	}
	now, at := g.watch.on(line), make(chan []byte, 1)
	g.onStart = func(ctx context.Context, q *qmp.Client) error {
		go func() {
			defer close(at)
			select {
			case <-now:
			case <-ctx.Done():
				return
			}
			if err := q.Execute(ctx, "stop", nil, nil); err != nil {
				return
			}
			memory, err := readMemory(ctx, t, q, 0, residueMemory<<20)
			if err != nil {
				t.Error(err)
			}
			at <- memory
			_ = q.Execute(ctx, "cont", nil, nil)
		}()
		return nil
	}
	return func() []byte { return <-at }, func() []byte { return end }
}

// cipherCopies is what the kernel has of the key while the disk is in use, as
// kernelCopies, but for dm-crypt's own copy: the schedules of the two AES keys,
// each for both directions. The key of the HMAC is nowhere: only what it makes
// of its two blocks.
var cipherCopies = []int{16, 16, 32, 32}

// While the guest runs, the key lies in the cipher's context and nowhere else.
func TestScratchKeyInMemory(t *testing.T) {
	t.Parallel()
	disk := emptyDisk(t, 272*mib)
	g := scratchGuest(t, disk, "look", ";", "sleep", "8")
	during, after := g.memoryAt(t, lookFrom)
	worked(t, g.runs(t))
	for when, memory := range map[string][]byte{"while the program ran": during(), "at its end": after()} {
		key := diskKey(t, memory, disk)
		if key == nil {
			t.Errorf("%s: the disk's key was not found in memory", when)
			continue
		}
		found, err := search(bytes.NewReader(memory), forms("scratch key", key))
		if err != nil {
			t.Fatal(err)
		}
		var copies []int
		for _, p := range found["scratch key"] {
			copies = append(copies, p.bytes)
		}
		slices.Sort(copies)
		if !slices.Equal(copies, cipherCopies) || len(found) != 1 {
			t.Errorf("%s: of the scratch disk's key there is in memory\n%vwant parts of %d bytes", when, found, cipherCopies)
		}
	}
}

// After a boot that failed with the disk mounted, the key is nowhere.
func TestScratchKeyAfterFailure(t *testing.T) {
	t.Parallel()
	disk := emptyDisk(t, 272*mib)
	g := scratchGuest(t, disk, "true")
	g.cmdline = strings.Replace(g.cmdline, " -- ", " init=/sbin/absent -- ", 1)
	_, after := g.memoryAt(t, "")
	g.fails(t, "ROOT-INIT")
	if key := diskKey(t, after(), disk); key != nil {
		t.Error("the scratch disk's key is still in memory")
	}
}
