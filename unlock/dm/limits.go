package dm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"
)

var errLimit = errors.New("reads cannot be kept small enough")

// A read of more than 128 KiB is split by dm-crypt (Linux 6.12 and later,
// DM_CRYPT_DEFAULT_MAX_READ_SIZE in drivers/md/dm-crypt.c), and each part is
// decrypted where it lies as soon as it has come. When the host fails another
// part, the pages of the whole read count as not read and hold plaintext; the
// next attempt hands them to the disk's driver, which copies what they hold to
// the buffers that the host sees (kernel/dma/swiotlb.c). dm-verity stops no
// guest for it: panic_on_error does not count for what is read ahead. A read
// that is not split is decrypted as a whole or not at all.
//
// The largest reads are those ahead (mm/readahead.c): read_ahead_kb, twice of
// it after POSIX_FADV_SEQUENTIAL, or for a large read(2) max_sectors_kb.
const (
	splitKiB     = 128
	readAheadKiB = splitKiB / 2
)

// sysfsSplit is where dm-crypt may have been told to split smaller reads; 0
// stands for its default.
const sysfsSplit = "/sys/module/dm_crypt/parameters/max_read_size"

// LimitReads bounds what a file system on the active crypt device asks for in
// one piece, and reads the bounds back. It comes before mounting: an open file
// keeps the bounds of its opening. Reads past the page cache (O_DIRECT) and
// those of MADV_HUGEPAGE have no bounds.
func LimitReads(name string) error {
	info, err := devmapper.InfoByName(name)
	if err != nil {
		return fmt.Errorf("cannot find the mapped device %s: %w", name, err)
	}
	queue := fmt.Sprintf("/sys/dev/block/%d:%d/queue", unix.Major(info.DevNo), unix.Minor(info.DevNo))
	return limitReads(queue, sysfsSplit, os.WriteFile)
}

func limitReads(queue, split string, write func(string, []byte, os.FileMode) error) error {
	switch n, err := readNumber(split); {
	case errors.Is(err, os.ErrNotExist): // a kernel that has only the default
	case err != nil:
		return err
	case n != 0 && n < splitKiB<<10:
		return fmt.Errorf("%w: dm_crypt.max_read_size=%d", errLimit, n)
	}
	// The order matters: a change of the first raises the second.
	limits := []struct {
		name string
		most uint64
	}{{"max_sectors_kb", splitKiB}, {"read_ahead_kb", readAheadKiB}}
	for _, l := range limits {
		path := filepath.Join(queue, l.name)
		if n, err := readNumber(path); err != nil {
			return err
		} else if n <= l.most {
			continue
		}
		if err := write(path, strconv.AppendUint(nil, l.most, 10), 0); err != nil {
			return fmt.Errorf("%w: %w", errLimit, err)
		}
	}
	for _, l := range limits {
		if n, err := readNumber(filepath.Join(queue, l.name)); err != nil {
			return err
		} else if n > l.most {
			return fmt.Errorf("%w: the kernel keeps %s at %d", errLimit, l.name, n)
		}
	}
	return nil
}

// readNumber reads a file of sysfs that holds one number.
func readNumber(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errLimit, err)
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s is %.32q", errLimit, path, text)
	}
	return n, nil
}
