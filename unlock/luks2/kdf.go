package luks2

import (
	"fmt"

	"cocoroot/unlock/luks2/internal/layout"
)

// A KDF makes the key of a keyslot from a passphrase.
type KDF struct {
	Type       string // pbkdf2, argon2i or argon2id
	Iterations uint32 // PBKDF2
	Time       uint32 // Argon2: passes over the memory
	MemoryKiB  uint32 // Argon2
	CPUs       uint8  // Argon2: lanes
}

// String returns type and costs.
func (k KDF) String() string {
	if k.Type == layout.PBKDF2 {
		return fmt.Sprintf("pbkdf2 with %d iterations", k.Iterations)
	}
	return fmt.Sprintf("%s with %d passes, %d KiB, %d lanes", k.Type, k.Time, k.MemoryKiB, k.CPUs)
}
