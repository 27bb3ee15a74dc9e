package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCopies is returned where the second copy of the header is not a copy of
// the first.
var ErrCopies = errors.New("the second copy of the LUKS2 header is not a copy of the first; cryptsetup repair makes it one, and the image has to be hashed again")

// CheckSecondary compares the second copy of the header, which stands right
// behind the first, with the first, which Check has accepted. Both are as long
// as HeaderSize says. The guest never reads the second copy; cryptsetup
// recovers from it, and so would boot another header on another day.
//
// The copies differ in magic, offset, salt and checksum alone (specification,
// section 2.1).
func CheckSecondary(first, second []byte) error {
	if len(first) < BinaryHeaderSize || len(second) != len(first) {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrCopies, len(second), len(first))
	}
	if string(second[offMagic:offVersion]) != secondaryMagic {
		return fmt.Errorf("%w: it is not there", ErrCopies)
	}
	if off := binary.BigEndian.Uint64(second[offOffset:]); off != uint64(len(first)) {
		return fmt.Errorf("%w: it says that it stands at %d, not at %d", ErrCopies, off, len(first))
	}
	sum := checksum(second)
	if !bytes.Equal(sum[:], second[offChecksum:offChecksum+len(sum)]) {
		return fmt.Errorf("%w: it does not match its checksum", ErrCopies)
	}
	for _, r := range [][2]int{{offVersion, offSalt}, {offUUID, offOffset}, {offPadding, offChecksum}, {offPadding2, len(first)}} {
		if !bytes.Equal(first[r[0]:r[1]], second[r[0]:r[1]]) {
			return fmt.Errorf("%w: they differ between bytes %d and %d", ErrCopies, r[0], r[1])
		}
	}
	return nil
}
