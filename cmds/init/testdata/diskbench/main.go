// Command diskbench measures volumes beside plain dm-crypt, on three disks of
// one guest: plain, scratch (without a journal), state (with one). A benchmark
// builds it and puts it into an image.
package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"cocoroot/unlock/dm"
	"cocoroot/unlock/volume"
)

const (
	total = 48 << 20
	chunk = 1 << 20
	syncs = 200
)

func main() {
	for _, step := range []func() error{plain, func() error { return ours("scratch", "vdc", false) }, func() error { return ours("state", "vdd", true) }} {
		if err := step(); err != nil {
			fmt.Println("diskbench:", err)
		}
	}
}

func plain() error {
	key := make([]byte, 64)
	rand.Read(key)
	size, err := sizeOf("/dev/vdb")
	if err != nil {
		return err
	}
	if err := devmapper.CreateAndLoad("plain", "", 0, devmapper.CryptTable{
		Length: size, BackendDevice: "/dev/vdb", Encryption: "aes-xts-plain64", Key: key, SectorSize: 4096,
	}); err != nil {
		return err
	}
	return throughput("plain", "plain", "vdb")
}

func ours(name, disk string, journal bool) error {
	v := volume.Volume{Name: name, Disk: "/dev/" + disk, Layout: volume.Layout{Sections: 1, Journal: journal}}
	size, err := sizeOf(v.Disk)
	if err != nil {
		return err
	}
	if journal {
		v.Layout.Sections = volume.JournalSections(size)
	}
	began := time.Now()
	if err := volume.WithRandomKey(name, func(key string) error {
		v.Key = key
		return v.Create()
	}); err != nil {
		return err
	}
	fmt.Printf("diskbench: %s create-ms %d\n", name, time.Since(began).Milliseconds())
	path, err := v.Path()
	if err != nil {
		return err
	}
	got, err := sizeOf(path)
	if err != nil {
		return err
	}
	fmt.Printf("diskbench: %s lost-permille %d\n", name, (size-got)*1000/size)
	if err := small(name, v, disk); err != nil {
		return err
	}
	return throughput(name, name, disk)
}

// small writes 4 KiB so many times, each with an fsync.
func small(name string, v volume.Volume, disk string) error {
	at := "/mnt/" + name
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := v.Mount(at, 0, ""); err != nil {
		return err
	}
	if err := volume.Grow(at); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(at, "file"))
	if err != nil {
		return err
	}
	block := make([]byte, 4096)
	unix.Sync()
	before, began := written(disk), time.Now()
	for range syncs {
		rand.Read(block)
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	fmt.Printf("diskbench: %s fsync-us %d\n", name, time.Since(began).Microseconds()/syncs)
	fmt.Printf("diskbench: %s fsync-bytes %d\n", name, (written(disk)-before)/syncs)
	if err := f.Close(); err != nil {
		return err
	}
	return unix.Unmount(at, 0)
}

// throughput writes and reads the device itself.
func throughput(name, mapped, disk string) error {
	path, err := dm.Path(mapped)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	rand.Read(b)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	before := written(disk)
	if err := timed(name+" write", func(at int64) error { _, err := unix.Pwrite(fd, b, at); return err }, func() error { return unix.Fsync(fd) }); err != nil {
		return err
	}
	fmt.Printf("diskbench: %s written-percent %d\n", name, (written(disk)-before)*100/total)
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	return timed(name+" read", func(at int64) error { _, err := unix.Pread(fd, b, at); return err }, func() error { return nil })
}

func timed(name string, do func(int64) error, end func() error) error {
	began := time.Now()
	for at := int64(0); at < total; at += chunk {
		if err := do(at); err != nil {
			return err
		}
	}
	if err := end(); err != nil {
		return err
	}
	fmt.Printf("diskbench: %s-kB/s %d\n", name, int64(total/1000)*1000/max(1, time.Since(began).Milliseconds()))
	return nil
}

func sizeOf(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	return uint64(n), err
}

// written is what a disk was given to write, in bytes
// (Documentation/block/stat.rst, the seventh number).
func written(disk string) int64 {
	text, _ := os.ReadFile("/sys/block/" + disk + "/stat")
	n, _ := strconv.ParseInt(strings.Fields(string(text))[6], 10, 64)
	return n * 512
}
