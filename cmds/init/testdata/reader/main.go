// Command reader reads a file from its start to its end, in the way that its
// first argument names. A boot test builds it and puts it into an image.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"
)

const (
	large     = 1 << 20
	block     = 4096
	hugePages = 14 // MADV_HUGEPAGE

	fadviseSequential = 2
	fadviseWillNeed   = 3
)

func main() {
	if err := read(os.Args[1], os.Args[2]); err != nil {
		fmt.Println("reader:", err)
		os.Exit(1)
	}
}

func read(way, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	switch way {
	case "blocks":
		return toEnd(f, block)
	case "large":
		return toEnd(f, large)
	case "sequential":
		return errors.Join(advise(f, fadviseSequential), toEnd(f, large))
	case "willneed":
		return errors.Join(advise(f, fadviseWillNeed), toEnd(f, block))
	case "map", "hugepages":
		return mapped(f, way == "hugepages")
	}
	return fmt.Errorf("cannot read in the way %q", way)
}

func toEnd(f *os.File, size int) error {
	buf := make([]byte, size)
	for {
		_, err := f.Read(buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func advise(f *os.File, advice uintptr) error {
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, advice, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// mapped touches every page. A kernel may refuse to use huge pages.
func mapped(f *os.File, huge bool) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, int(fi.Size()), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	if huge {
		_, _, errno := syscall.Syscall(syscall.SYS_MADVISE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), hugePages)
		fmt.Println("reader: huge pages:", errno == 0)
	}
	var sum byte
	for i := 0; i < len(m); i += block {
		sum += m[i]
	}
	_, err = fmt.Fprint(io.Discard, sum)
	return err
}
