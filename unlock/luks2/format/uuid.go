package format

import (
	"fmt"
	"io"
)

// UUID is a UUID in the order of its text (RFC 9562), as LUKS2 and dm-verity
// store it.
type UUID [16]byte

// NewUUID reads 16 bytes of randomness and makes a version 4 UUID of them.
func NewUUID(random io.Reader) (UUID, error) {
	var u UUID
	if _, err := io.ReadFull(random, u[:]); err != nil {
		return UUID{}, fmt.Errorf("cannot make a UUID: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u, nil
}

// String returns the lower-case text form.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
