package dm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	number, err := deviceNumber(name)
	if err != nil {
		return err
	}
	queue := fmt.Sprintf("/sys/dev/block/%d:%d/queue", unix.Major(number), unix.Minor(number))
	return limitReads(queue, sysfsSplit, os.WriteFile)
}

func limitReads(queue, split string, write func(string, []byte, os.FileMode) error) error {
	switch n, err := readNumber(split); {
	case errors.Is(err, os.ErrNotExist): // a kernel that has only the default
	case err != nil:
		return fmt.Errorf("%w: %w", errLimit, err)
	case n != 0 && n < splitKiB<<10:
		return fmt.Errorf("%w: dm_crypt.max_read_size=%d", errLimit, n)
	}
	// The order matters: a change of the first raises the second.
	for _, l := range []struct {
		name string
		most uint64
	}{{"max_sectors_kb", splitKiB}, {"read_ahead_kb", readAheadKiB}} {
		path := filepath.Join(queue, l.name)
		n, err := readNumber(path)
		if err == nil && n > l.most {
			if err = write(path, strconv.AppendUint(nil, l.most, 10), 0); err == nil {
				n, err = readNumber(path)
			}
		}
		if err == nil && n > l.most {
			err = fmt.Errorf("the kernel keeps %s at %d", path, n)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errLimit, err)
		}
	}
	return nil
}

// readNumber reads a file of sysfs that holds one number.
func readNumber(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is %.32q", path, text)
	}
	return n, nil
}
