package main_test

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
)

// machine is what a guest boots on.
type machine struct{ cpus, memory int } // memory in MiB

func (m machine) String() string { return fmt.Sprintf("%d CPUs and %d MiB", m.cpus, m.memory) }

// machines returns those that are tried: a few, or when soaking every number of CPUs
// up to 64, and every size of memory at which something changes: the least, where the
// low part ends (2 GiB, or 0xb0000000), and what lies above 4 GiB.
func machines() []machine {
	if !soaking() {
		return []machine{{1, 128}, {2, 2817}, {16, 64 << 10}}
	}
	var out []machine
	for n := range 64 {
		out = append(out, machine{n + 1, 1024})
	}
	for _, memory := range []int{
		128, 129, 160, 192, 256, 384, 512, 768, 1024, 1536, 2047, 2048, 2049, 2815, 2816, 2817, 3071, 3072,
		4096, 6144, 8 << 10, 12 << 10, 16 << 10, 24 << 10, 32 << 10, 48 << 10, 64 << 10,
	} {
		out = append(out, machine{1, memory}, machine{4, memory})
	}
	return append(out, machine{64, 64 << 10})
}

var foundMachine = regexp.MustCompile(`boot-test: (\d+) CPUs, (\d+) kB, (\d+) PCI devices\r\n`)

// Every CPU comes up and all memory is there, but for what the kernel keeps.
// One at a time: a guest of 64 GiB touches a good deal of this machine's memory.
func TestMachines(t *testing.T) {
	t.Parallel()
	for _, m := range machines() {
		t.Run(m.String(), func(t *testing.T) {
			g := standardImage(t).boots(t)
			g.memory, g.cpus = m.memory, m.cpus
			// More than this machine has: only what is touched counts, so the
			// kernel must not clear all of it.
			g.cmdline += " init_on_free=0"
			g.extra = append(g.extra, "-object", fmt.Sprintf("memory-backend-ram,id=ram,size=%dM,reserve=off", m.memory), "-machine", "memory-backend=ram")
			e := g.undisturbed(t)
			found := foundMachine.FindStringSubmatch(e.console)
			if found == nil {
				t.Fatal("the guest did not say what machine it is on")
			}
			cpus, _ := strconv.Atoi(found[1])
			memory, _ := strconv.Atoi(found[2])
			if cpus != m.cpus {
				t.Errorf("the guest has %d CPUs", cpus)
			}
			if memory /= 1024; memory > m.memory || memory < m.memory*9/10-48 {
				t.Errorf("the guest has %d MiB", memory)
			}
		})
	}
}

// A device of 8 GiB lies in the window above 4 GiB that the firmware's DSDT
// has, and the disk's interrupts are messages.
func TestLargeDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g := seal(t, dir, testRoot(t, dir, `grep 0000:00: /proc/iomem; grep virtio /proc/interrupts`)).boots(t)
	g.extra = append(g.extra, "-object", "memory-backend-ram,id=large,size=8G,share=on,reserve=off", "-device", "ivshmem-plain,memdev=large,addr=9")
	e := g.runs(t)
	if want := regexp.MustCompile(`(?m)^ +8[0-9a-f]{9}-[89a-f][0-9a-f]{9} : 0000:00:09\.0\r$`); !want.MatchString(e.console) {
		t.Errorf("the device does not lie above 512 GiB")
	}
	if want := regexp.MustCompile(`PCI-MSIX?-`); !want.MatchString(e.console) {
		t.Errorf("the disk has no message interrupts")
	}
}
