package templates_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/oracle"
	"cocoroot/unlock/efi"
)

// The parts of the firmware that read what the host says run here as a program
// of this machine, with sanitizers, and the test is the host: it can lie as
// no QEMU does.

// firmwareProgram compiles the firmware's own files and the harness around them.
func firmwareProgram(t *testing.T) string {
	t.Helper()
	gcc := oracle.Tool(t, "gcc")
	dir := t.TempDir()
	sources := []string{"firmware/Boot/Fetch.c", "firmware/Boot/Verify.c", "firmware/Boot/Sha256.c", "firmware/FwCfg/FwCfg.c"}
	// All of edk2's headers lead to one.
	include := regexp.MustCompile(`(?m)^#include <(.+)>`)
	for _, name := range append(sources, "firmware/Boot/Boot.h") {
		for _, m := range include.FindAllStringSubmatch(string(read(t, name)), -1) {
			if _, err := os.Stat(filepath.Join("firmware/Include", m[1])); err == nil {
				continue // our own
			}
			path := filepath.Join(dir, m[1])
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("#include \"edk2.h\"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	program := filepath.Join(dir, "firmware")
	args := []string{
		"-o", program, "-O1", "-g", "-Wall", "-Werror", "-fno-strict-aliasing", "-fshort-wchar",
		"-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all",
		"-I", dir, "-I", "testdata/firmware", "-I", "firmware/Include", "-I", "firmware/Boot", "testdata/firmware/harness.c",
	}
	oracle.Run(t, gcc, append(args, sources...)...)
	return program
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFirmware(t *testing.T) {
	program := firmwareProgram(t)
	for name, test := range map[string]func(*testing.T, string){
		"fetches": fetches, "stops at a refused request": stopsAtRefusal, "hashes": hashes,
		"verifies": verifies, "reads the memory map": readsMemoryMap, "counts CPUs": countsCPUs,
	} {
		t.Run(name, func(t *testing.T) { test(t, program) })
	}
}

// host is what the fw_cfg device of the test's making answers.
type host struct {
	items map[uint16][]byte           // what lies under each key; after its end all is zero
	next  map[uint16][]byte           // what lies there from the second time on that it is selected
	dma   func(control uint32) uint32 // what a DMA request is answered; nil for success
}

// answer is what the firmware made of it.
type answer struct {
	halt     string
	results  [][]byte
	requests int
}

// run starts the program in a mode with what it reads first, and answers it as
// the host until it ends.
func (h host) run(t *testing.T, program, mode string, input []byte) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, mode)
	cmd.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		stdin.Write(input)
		if mode == "sha256" || mode == "verify" {
			stdin.Close()
		}
	}()
	a, err := h.serve(bufio.NewReader(stdout), stdin)
	if err != nil {
		cancel()
	}
	if wait := cmd.Wait(); wait != nil && mode != "sha256" || err != nil {
		t.Fatalf("the firmware's code ended with %v, %v after %d requests\n%s", wait, err, a.requests, stderr.String())
	}
	return a
}

// serve answers until the program ends.
func (h host) serve(from io.Reader, to io.Writer) (a answer, err error) {
	var data []byte // what is left of the selected item
	selected := map[uint16]bool{}
	take := func(n uint32) []byte {
		out := make([]byte, n)
		data = data[copy(out, data):]
		return out
	}
	choose := func(item uint16) {
		data = h.items[item]
		if other, ok := h.next[item]; ok && selected[item] {
			data = other
		}
		selected[item] = true
	}
	numbers := func(n int) ([]uint32, error) {
		v := make([]uint32, n)
		return v, binary.Read(from, binary.LittleEndian, v)
	}
	for ; ; a.requests++ {
		var op [1]byte
		if _, err := io.ReadFull(from, op[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return a, err
		}
		v, err := numbers(map[byte]int{'s': 1, 'p': 1, 'd': 2, 'h': 1, 'r': 1}[op[0]])
		if err != nil {
			return a, err
		}
		switch op[0] {
		case 's':
			choose(uint16(v[0]))
		case 'p':
			_, err = to.Write(take(v[0]))
		case 'd':
			reply := uint32(0)
			if h.dma != nil {
				reply = h.dma(v[0])
			}
			if v[0]&8 != 0 {
				choose(uint16(v[0] >> 16))
			}
			out := binary.LittleEndian.AppendUint32(nil, reply)
			if reply == 0 && v[0]&2 != 0 {
				out = append(out, take(v[1])...)
			}
			_, err = to.Write(out)
		case 'h', 'r':
			text := make([]byte, v[0])
			if _, err = io.ReadFull(from, text); op[0] == 'h' {
				a.halt = string(text)
			} else {
				a.results = append(a.results, text)
			}
		default:
			err = fmt.Errorf("the harness says %q", op[0])
		}
		if err != nil {
			return a, err
		}
	}
}

// fw_cfg's keys (QEMU, include/standard-headers/linux/qemu_fw_cfg.h).
const (
	cpuCount    = 0x05
	kernelSize  = 0x08
	initrdSize  = 0x0b
	kernelData  = 0x11
	initrdData  = 0x12
	cmdlineSize = 0x14
	cmdlineData = 0x15
	setupSize   = 0x17
	setupData   = 0x18
	directory   = 0x19
	firstFile   = 0x20
)

func u32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// file is an entry of the directory.
type file struct {
	name string
	size uint32
	item uint16
}

// list returns a directory that says it has so many entries.
func list(count uint32, files ...file) []byte {
	out := binary.BigEndian.AppendUint32(nil, count)
	for _, f := range files {
		out = binary.BigEndian.AppendUint32(out, f.size)
		out = binary.BigEndian.AppendUint16(out, f.item)
		out = append(out, 0, 0)
		out = append(out, make([]byte, 56)...)
		copy(out[len(out)-56:], f.name)
	}
	return out
}

// honest returns what a host offers that boots three blobs: as setup and
// kernel, or as one file.
func honest(asFile bool) host {
	h := host{items: map[uint16][]byte{
		setupSize: u32(5), setupData: []byte("setup"), kernelSize: u32(6), kernelData: []byte("kernel"),
		initrdSize: u32(6), initrdData: []byte("initrd"), cmdlineSize: u32(5), cmdlineData: []byte("line\x00"),
		directory: list(0),
	}, next: map[uint16][]byte{}}
	if asFile {
		h.items[directory] = list(2, file{"etc/boot/shim", 9, firstFile + 1}, file{"etc/boot/kernel", 4, firstFile})
		h.items[firstFile] = []byte("file")
		h.items[firstFile+1] = []byte("the shim!")
	}
	return h
}

const big = "a file that is too large"

func fetches(t *testing.T, program string) {
	many := make([]byte, 5<<20+3) // several buffers
	rand.New(rand.NewSource(1)).Read(many)
	for name, tc := range map[string]struct {
		change func(*host)
		asFile bool
		want   []string // kernel, initrd, command line
		halt   string   // part of the line
	}{
		"setup and kernel": {want: []string{"setupkernel", "initrd", "line\x00"}},
		"file":             {asFile: true, want: []string{"file", "initrd", "line\x00"}},
		"no initrd":        {change: func(h *host) { h.items[initrdSize] = u32(0) }, want: []string{"setupkernel", "", "line\x00"}},
		"no setup":         {change: func(h *host) { h.items[setupSize] = u32(0) }, want: []string{"kernel", "initrd", "line\x00"}},
		"several buffers": {change: func(h *host) {
			h.items[initrdSize], h.items[initrdData] = u32(uint32(len(many))), many
		}, want: []string{"setupkernel", string(many), "line\x00"}},

		// Upstream adds both in 32 bits and allocates what is left of it.
		"sum of the kernel's sizes wraps": {change: func(h *host) {
			h.items[setupSize], h.items[kernelSize] = u32(0xffffff00), u32(0x200)
		}, halt: big},
		"sum of the kernel's sizes wraps to 0": {change: func(h *host) {
			h.items[setupSize], h.items[kernelSize] = u32(1<<31), u32(1<<31)
		}, halt: big},
		"setup too large":        {change: func(h *host) { h.items[setupSize] = u32(1<<30 + 1) }, halt: big},
		"kernel too large":       {change: func(h *host) { h.items[kernelSize] = u32(0xffffffff) }, halt: big},
		"file too large":         {asFile: true, change: func(h *host) { h.items[directory] = list(1, file{"etc/boot/kernel", 0xffffffff, firstFile}) }, halt: big},
		"initrd too large":       {change: func(h *host) { h.items[initrdSize] = u32(1<<30 + 1) }, halt: big},
		"command line too large": {change: func(h *host) { h.items[cmdlineSize] = u32(1<<16 + 1) }, halt: big},

		// Upstream allocates and reads as many entries as it is told.
		"count of files is huge":    {change: func(h *host) { h.items[directory] = list(0xffffffff) }, want: []string{"setupkernel", "initrd", "line\x00"}},
		"count of files that wraps": {change: func(h *host) { h.items[directory] = list(1<<26 + 1) }, want: []string{"setupkernel", "initrd", "line\x00"}},
		"names without end": {change: func(h *host) {
			h.items[directory] = list(2, file{strings.Repeat("x", 56), 4, firstFile}, file{"etc/boot/kernel" + strings.Repeat("x", 41), 4, firstFile})
		}, want: []string{"setupkernel", "initrd", "line\x00"}},
		"directory is shorter than it says": {change: func(h *host) {
			h.items[directory] = list(7, file{"opt/x", 1, firstFile})
		}, want: []string{"setupkernel", "initrd", "line\x00"}},

		// What is fetched has the size that was checked, whatever is said later.
		"sizes grow": {change: func(h *host) {
			for _, item := range []uint16{setupSize, kernelSize, initrdSize, cmdlineSize} {
				h.next[item] = u32(0xfffffff0)
			}
		}, want: []string{"setupkernel", "initrd", "line\x00"}},
		"content is shorter": {change: func(h *host) { h.items[initrdData] = []byte("i") }, want: []string{"setupkernel", "i\x00\x00\x00\x00\x00", "line\x00"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := honest(tc.asFile)
			if tc.change != nil {
				tc.change(&h)
			}
			a := h.run(t, program, "fetch", nil)
			if tc.halt != "" {
				if !strings.Contains(a.halt, tc.halt) || len(a.results) > 0 {
					t.Errorf("it halts with %q and has %d results; want %q", a.halt, len(a.results), tc.halt)
				}
				return
			}
			if a.halt != "" || len(a.results) != len(tc.want) {
				t.Fatalf("it halts with %q and has %d results", a.halt, len(a.results))
			}
			for i, want := range tc.want {
				if string(a.results[i]) != want {
					t.Errorf("blob %d = %.40q; want %.40q", i, a.results[i], want)
				}
			}
			if a.requests > 20000 {
				t.Errorf("%d requests", a.requests)
			}
		})
	}
}

// Each request of a good boot is refused once.
func stopsAtRefusal(t *testing.T, program string) {
	h := honest(true)
	all := h.run(t, program, "fetch", nil).requests - 3 // without the results
	if all < 8 {
		t.Fatalf("only %d requests", all)
	}
	for i := range all {
		n := 0
		h.dma = func(uint32) uint32 {
			if n++; n-1 == i {
				return 1 // FW_CFG_DMA_CTL_ERROR
			}
			return 0
		}
		if a := h.run(t, program, "fetch", nil); !strings.Contains(a.halt, "refused") || len(a.results) > 0 {
			t.Errorf("request %d: it halts with %q", i, a.halt)
		}
	}
}

func hashes(t *testing.T, program string) {
	random := rand.New(rand.NewSource(1))
	var input []byte
	var want [][]byte
	add := func(n int) {
		data := make([]byte, n)
		random.Read(data)
		input = append(append(input, u32(uint32(n))...), data...)
		digest := sha256.Sum256(data)
		want = append(want, digest[:])
	}
	for n := range 300 { // every place of the end in a block, and around blocks
		add(n)
	}
	for _, n := range []int{4095, 4096, 4097, 1<<20 - 9, 1<<20 - 8, 1 << 20, 1<<20 + 55, 1<<20 + 56} {
		add(n)
	}
	a := host{}.run(t, program, "sha256", input)
	if len(a.results) != len(want) {
		t.Fatalf("%d digests; want %d", len(a.results), len(want))
	}
	for i := range want {
		if !bytes.Equal(a.results[i], want[i]) {
			t.Errorf("message %d: digest %x; want %x", i, a.results[i], want[i])
		}
	}
}

var (
	tableGUID   = efi.MustParse("9438d606-4f22-4cc9-b479-a793d411fd21")
	cmdlineGUID = efi.MustParse("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
	initrdGUID  = efi.MustParse("44baf731-3a2f-4bd7-9af1-41e29169781d")
	kernelGUID  = efi.MustParse("4de79437-abd2-427f-b835-d5b172d2045b")
)

// hashEntry is an entry of the table of hashes.
func hashEntry(id efi.GUID, content string) []byte {
	digest := sha256.Sum256([]byte(content))
	return append(binary.LittleEndian.AppendUint16(bytes.Clone(id[:]), 50), digest[:]...)
}

func hashTable(entries ...[]byte) []byte {
	body := bytes.Join(entries, nil)
	return append(binary.LittleEndian.AppendUint16(bytes.Clone(tableGUID[:]), uint16(18+len(body))), body...)
}

func verifies(t *testing.T, program string) {
	const area = 0x400 // what the firmware has for the table
	k, i, c := hashEntry(kernelGUID, "kernel"), hashEntry(initrdGUID, ""), hashEntry(cmdlineGUID, "line\x00")
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	others := slices.Repeat([][]byte{hashEntry(tableGUID, "x")}, area/50)
	sized := func(n uint16) []byte {
		b := hashTable(c, i, k)
		binary.LittleEndian.PutUint16(b[16:], n)
		return b
	}
	for name, tc := range map[string]struct {
		table []byte
		halt  string
	}{
		"as QEMU writes it":       {hashTable(c, i, k), ""},
		"another order":           {hashTable(k, c, i), ""},
		"an entry beside them":    {hashTable(c, i, k, hashEntry(tableGUID, "x")), ""},
		"no table":                {nil, "no table"},
		"another GUID":            {flipped(hashTable(c, i, k), 3), "no table"},
		"kernel changed":          {hashTable(c, i, flipped(k, 49)), "the kernel is not"},
		"initrd changed":          {hashTable(c, flipped(i, 18), k), "the initrd is not"},
		"command line changed":    {hashTable(flipped(c, 30), i, k), "the command line is not"},
		"no kernel":               {hashTable(c, i), "the kernel has no"},
		"no initrd":               {hashTable(c, k), "the initrd has no"},
		"no command line":         {hashTable(i, k), "the command line has no"},
		"empty":                   {hashTable(), "has no"},
		"kernel twice":            {hashTable(c, i, k, k), "twice"},
		"another kernel first":    {hashTable(c, i, flipped(k, 20), k), "twice"},
		"length 0":                {sized(0), "malformed"},
		"length without the head": {sized(17), "malformed"},
		"cut in an entry":         {sized(18 + 150 - 1), "malformed"},
		"cut in an entry's head":  {sized(18 + 100 + 17), "malformed"},
		"longer than the area":    {sized(area + 1), "malformed"},
		"as long as can be":       {sized(0xffff), "malformed"},
		"goes on after the area":  {hashTable(append([][]byte{c, i, k}, others...)...)[:area], "malformed"},
		"entry of length 0":       {hashTable(c, i, append(bytes.Clone(k[:16]), make([]byte, 34)...)), "malformed"},
		"entry too long":          {hashTable(c, i, append(binary.LittleEndian.AppendUint16(bytes.Clone(k[:16]), 51), make([]byte, 33)...)), "malformed"},
		"entry too short":         {hashTable(c, i, append(binary.LittleEndian.AppendUint16(bytes.Clone(k[:16]), 18), k[18:]...)), "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			var input []byte
			for _, b := range [][]byte{append(tc.table, make([]byte, area-len(tc.table))...), []byte("kernel"), nil, []byte("line\x00")} {
				input = append(append(input, u32(uint32(len(b)))...), b...)
			}
			a := host{}.run(t, program, "verify", input)
			if passed := len(a.results) == 1; passed != (tc.halt == "") || !strings.Contains(a.halt, tc.halt) {
				t.Errorf("passed: %v, halt %q; want %q", passed, a.halt, tc.halt)
			}
		})
	}
}

// span is a range of the memory map.
type span struct {
	base, size uint64
	kind       uint32
}

func memoryMap(spans ...span) []byte {
	var b []byte
	for _, s := range spans {
		b = binary.LittleEndian.AppendUint64(b, s.base)
		b = binary.LittleEndian.AppendUint64(b, s.size)
		b = binary.LittleEndian.AppendUint32(b, s.kind)
	}
	return b
}

func readsMemoryMap(t *testing.T, program string) {
	const mib, gib, ram, reserved = 1 << 20, 1 << 30, 1, 2
	low := span{0, 2 * gib, ram}
	high := span{4 * gib, gib, ram}
	for name, tc := range map[string]struct {
		spans []span
		bytes int // added to the size that the directory says
		ok    bool
	}{
		"low":               {spans: []span{low}, ok: true},
		"low and high":      {spans: []span{low, high}, ok: true},
		"128 MiB":           {spans: []span{{0, 128 * mib, ram}}, ok: true},
		"reserved":          {spans: []span{{0xfeffc000, 0x4000, reserved}, low, high}, ok: true},
		"large":             {spans: []span{low, {4 * gib, 256 * gib, ram}}, ok: true},
		"none":              {},
		"too little":        {spans: []span{{0, 124 * mib, ram}}},
		"only high":         {spans: []span{high}},
		"only reserved":     {spans: []span{{0, 2 * gib, reserved}}},
		"over the devices":  {spans: []span{{0, 4*gib - mib, ram}}},
		"between":           {spans: []span{low, {3 * gib, gib, ram}}},
		"up to 4 GiB":       {spans: []span{low, {4*gib - mib, 2 * mib, ram}}},
		"past the window":   {spans: []span{low, {4 * gib, 1 << 48, ram}}},
		"wraps":             {spans: []span{low, {4 * gib, 1<<64 - 4*gib, ram}}},
		"end wraps to 4096": {spans: []span{low, {1<<64 - 4096, 8192, ram}}},
		"empty range":       {spans: []span{low, {4 * gib, 0, ram}}},
		"not of pages":      {spans: []span{low, {4*gib + 1, gib, ram}}},
		"half a page":       {spans: []span{low, {4 * gib, gib + 2048, ram}}},
		"unknown type":      {spans: []span{low, {4 * gib, gib, 3}}, ok: true},
		"type 0":            {spans: []span{{0, 2 * gib, 0}}},
		"twice":             {spans: []span{low, low}},
		"overlap":           {spans: []span{low, high, {4*gib + 4096, 4096, ram}}},
		"overlap, reserved": {spans: []span{low, {gib, 4096, reserved}}, ok: true},
		"half an entry":     {spans: []span{low, high}, bytes: -10},
		"a byte more":       {spans: []span{low}, bytes: 1},
		"huge":              {spans: []span{low}, bytes: 1<<32 - 40},
		"many":              {spans: append([]span{low}, make([]span, 100)...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := memoryMap(tc.spans...)
			kept := memoryMap(slices.DeleteFunc(slices.Clone(tc.spans), func(s span) bool { return s.kind != ram })...)
			h := host{
				items: map[uint16][]byte{
					directory: list(3, file{"etc/acpi/tables", 9, 9}, file{"etc/e820", uint32(len(data) + tc.bytes), firstFile}, file{"etc/e820", 20, 7}),
					firstFile: data,
				},
				next: map[uint16][]byte{firstFile: memoryMap(span{0, 1 << 40, ram})}, // read again, it lies
			}
			a := h.run(t, program, "memory", nil)
			if !tc.ok {
				if a.halt == "" || len(a.results) > 0 {
					t.Errorf("it took %x", a.results)
				}
				return
			}
			if len(a.results) != 2 || !bytes.Equal(a.results[0], kept) || !bytes.Equal(a.results[1], kept) {
				t.Errorf("it halts with %q and has %x; want twice %x", a.halt, a.results, kept)
			}
		})
	}
	t.Run("no map", func(t *testing.T) {
		t.Parallel()
		h := host{items: map[uint16][]byte{directory: list(0xffffffff, file{"etc/e820x", 20, firstFile})}}
		if a := h.run(t, program, "memory", nil); a.halt == "" || a.requests > 5000 {
			t.Errorf("it halts with %q after %d requests", a.halt, a.requests)
		}
	})
}

func countsCPUs(t *testing.T, program string) {
	for count, ok := range map[uint16]bool{0: false, 1: true, 64: true, 255: true, 512: true, 513: false, 0xffff: false} {
		h := host{items: map[uint16][]byte{cpuCount: binary.LittleEndian.AppendUint16(nil, count)}}
		a := h.run(t, program, "cpus", nil)
		if took := len(a.results) == 1 && binary.LittleEndian.Uint16(a.results[0]) == count; took != ok || ok == (a.halt != "") {
			t.Errorf("%d CPUs: taken %v, halt %q; want %v", count, took, a.halt, ok)
		}
	}
}
