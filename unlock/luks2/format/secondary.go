package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

// errCopies is returned where the second copy of the header is not a copy of
// the first.
var errCopies = errors.New("the second copy of the LUKS2 header is not a copy of the first; cryptsetup repair makes it one, and the image has to be hashed again")

// ReadHeader reads both copies of a device's header, checks the first as the guest
// does, and compares the second with it. The error is of reading, luks2.Check's, or
// about the second copy: then the first is returned, too.
func ReadHeader(r io.ReaderAt, deviceSize uint64) ([]byte, luks2.Info, error) {
	first := make([]byte, luks2.BinaryHeaderSize)
	_, err := r.ReadAt(first, 0)
	if err != nil && err != io.EOF {
		return nil, luks2.Info{}, err
	}
	size, err := luks2.HeaderSize(first)
	if err != nil {
		return nil, luks2.Info{}, err
	}
	both := make([]byte, 2*size)
	if _, err := r.ReadAt(both, 0); err == io.EOF {
		return nil, luks2.Info{}, fmt.Errorf("it is cut: two headers of %d bytes do not fit", size)
	} else if err != nil {
		return nil, luks2.Info{}, err
	}
	info, err := luks2.Check(both[:size], deviceSize, luks2.Limits{})
	if err != nil {
		return nil, info, err
	}
	return both[:size], info, checkSecondary(both[:size], both[size:])
}

// checkSecondary compares the second copy of the header with the first. The guest
// never reads the second copy; cryptsetup recovers from it, and so would boot
// another header on another day. The copies differ only in magic, offset, salt and checksum (specification,
// section 2.1).
func checkSecondary(first, second []byte) error {
	if len(first) < luks2.BinaryHeaderSize || len(second) != len(first) {
		return fmt.Errorf("%w: it has %d bytes, not %d", errCopies, len(second), len(first))
	}
	if string(second[layout.OffMagic:layout.OffVersion]) != layout.SecondaryMagic {
		return fmt.Errorf("%w: there is none", errCopies)
	}
	if off := binary.BigEndian.Uint64(second[layout.OffOffset:]); off != uint64(len(first)) {
		return fmt.Errorf("%w: it says that it is at %d, not at %d", errCopies, off, len(first))
	}
	sum := layout.Checksum(second)
	if !bytes.Equal(sum[:], second[layout.OffChecksum:layout.OffChecksum+len(sum)]) {
		return fmt.Errorf("%w: it does not match its checksum", errCopies)
	}
	for _, r := range [][2]int{{layout.OffVersion, layout.OffSalt}, {layout.OffUUID, layout.OffOffset}, {layout.OffPadding, layout.OffChecksum}, {layout.OffPadding2, len(first)}} {
		if !bytes.Equal(first[r[0]:r[1]], second[r[0]:r[1]]) {
			return fmt.Errorf("%w: they differ between bytes %d and %d", errCopies, r[0], r[1])
		}
	}
	return nil
}
