// Command writer works on the writable layer of a guest in the way that its
// first argument names, and checks that what it reads back is what it wrote.
// A boot test builds it and puts it into an image.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

const block = 64 << 10

func main() {
	var err error
	switch os.Args[1] {
	case "fill":
		err = fill(os.Args[2], number(3))
	case "churn":
		err = churn(os.Args[2], os.Args[3])
	case "write":
		err = write(os.Args[2], number(3))
	case "check":
		err = check(os.Args[2], number(3))
	case "direct":
		err = direct(os.Args[2])
	default:
		err = fmt.Errorf("there is no way %q", os.Args[1])
	}
	if err != nil {
		fmt.Println("writer:", err)
		os.Exit(1)
	}
}

func number(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

// content fills a block with what stands at offset in the file that seed names.
func content(b []byte, seed, offset int) {
	x := uint64(seed)<<48 + uint64(offset)
	for i := 0; i+8 <= len(b); i += 8 { // splitmix64
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(b[i:], z^z>>31)
	}
}

// write makes a file of size bytes; its seed is 1.
func write(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	b := make([]byte, block)
	for at := 0; at < size; at += block {
		content(b, 1, at)
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return f.Close()
}

func check(path string, seed int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, want := make([]byte, block), make([]byte, block)
	for at := 0; ; at += block {
		n, err := f.Read(got)
		if n == 0 {
			return ignoreEOF(err)
		}
		content(want, seed, at)
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("%s has changed after %d bytes", path, at)
		}
		if n < block {
			return nil
		}
	}
}

func ignoreEOF(err error) error {
	if err != nil && err.Error() == "EOF" {
		return nil
	}
	return err
}

// direct reads a file past the page cache into a buffer that holds its first
// block, as plaintext.
func direct(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := syscall.Mmap(-1, 0, block, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return err
	}
	content(b, 1, 0)
	failed := 0
	for at := int64(0); ; at += block {
		n, err := syscall.Pread(int(f.Fd()), b, at)
		if err != nil {
			failed++
		} else if n == 0 {
			fmt.Println("writer:", failed, "direct reads failed")
			return nil
		}
	}
}

// left is how much of the disk the writers are to fill: the rest is reserved
// before, for an emulated processor is slow.
const left = 48 << 20

// fill has so many writers fill the disk; then each reads what it wrote.
func fill(dir string, writers int) error {
	if err := reserve(filepath.Join(dir, "reserved")); err != nil {
		return err
	}
	var group sync.WaitGroup
	sizes, errs := make([]int, writers), make([]error, writers)
	for i := range writers {
		group.Go(func() { sizes[i], errs[i] = fillOne(name(dir, i), i) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	total := 0
	for i := range writers {
		group.Go(func() { errs[i] = check(name(dir, i), i) })
		total += sizes[i]
	}
	group.Wait()
	fmt.Println("writer: filled", total)
	return errors.Join(errs...)
}

func reserve(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	var s syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &s); err != nil {
		return err
	}
	if free := int64(s.Bavail) * s.Bsize; free > left {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, free-left)
	}
	return errors.Join(err, f.Close())
}

func name(dir string, i int) string { return filepath.Join(dir, strconv.Itoa(i)) }

func fillOne(path string, seed int) (int, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	b := make([]byte, block)
	for at := 0; ; {
		content(b, seed, at)
		n, err := f.Write(b)
		at += n
		if errors.Is(err, syscall.ENOSPC) {
			return at, f.Close()
		}
		if err != nil {
			return at, err
		}
	}
}
