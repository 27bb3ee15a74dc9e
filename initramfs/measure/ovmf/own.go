package ovmf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Own is the firmware that was built together with this program. The zero
// value is none: then no firmware is our own.
type Own struct {
	sum     [sha256.Size]byte
	version string
}

// ParseOwn reads what the build says of its firmware: the SHA-256 of the whole
// image in hex, a space, and what it was built from. An empty text is none.
func ParseOwn(text string) (Own, error) {
	if text == "" {
		return Own{}, nil
	}
	sum, version, _ := strings.Cut(text, " ")
	b, err := hex.DecodeString(sum)
	if err != nil || len(b) != sha256.Size {
		return Own{}, fmt.Errorf("cannot know the firmware of this build: %.80q is not a SHA-256", sum)
	}
	return Own{[sha256.Size]byte(b), version}, nil
}

// Version returns what it was built from, for people; it may be empty.
func (o Own) Version() string { return o.version }

// Holes says what firmware that is not ours may let the host do before the
// measured kernel runs, with every hash and the launch digest right. All of it
// was tried on edk2's AmdSev platform of 2026.08.
func Holes() []string {
	return []string{
		"an EFI program of the host's (fw_cfg etc/boot/shim) starts before the kernel",
		"the variable store is not measured, and a Driver#### in it starts a program of the host's (SEV, SEV-ES)",
		"fw_cfg opt/ovmf/X-PciMmio64Mb turns off the guard against PCI option ROMs",
		"the kernel runs the code in the host's ACPI tables (seal --no-acpi closes this one)",
	}
}

var (
	errForeign   = errors.New("this firmware is not cocoroot's own")
	errNoneKnown = fmt.Errorf("%w: this program was built without one, and knows none", errForeign)
)

// Check takes the SHA-256 of a whole image. It returns nil for our own, and an
// error for any other.
func (o Own) Check(sum [sha256.Size]byte) error {
	switch {
	case o == Own{}:
		return errNoneKnown
	case sum != o.sum:
		return errForeign
	}
	return nil
}
