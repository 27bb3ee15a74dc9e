package secret

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Errors returned by WhyNoStore.
var (
	// ErrNoDriver means that the kernel has no efi_secret driver, so that
	// nothing can reach what was injected, if anything was.
	ErrNoDriver = errors.New("the kernel has no efi_secret driver")
	// ErrTable means that the driver refuses the injected table. Its bytes
	// stay where they are.
	ErrTable = errors.New("the injected secret table is corrupt and the kernel took none of it")
	// ErrNone means that nothing was injected.
	ErrNone = errors.New("no secret was injected")
)

// driverDir is where the kernel shows the driver once it is loaded.
const driverDir = "/sys/bus/platform/drivers/efi_secret"

// WhyNoStore tells the causes of ErrNoStore apart: it asks the driver to bind
// once more and reads the answer (efi_secret.c: EINVAL for a table that it
// refuses, ENODEV for an area without the table's GUID). It returns one of
// ErrNoDriver, ErrTable and ErrNone, or another error when the answer is none
// of these.
func WhyNoStore() error { return whyNoStore(driverDir) }

func whyNoStore(driver string) error {
	if _, err := os.Stat(driver); err != nil {
		return ErrNoDriver
	}
	err := os.WriteFile(driver+"/bind", []byte("efi_secret.0"), 0)
	switch {
	case err == nil:
		return errors.New("cannot ask for the secrets: the driver took them at the second try only")
	case errors.Is(err, unix.EINVAL):
		return ErrTable
	case errors.Is(err, unix.ENODEV):
		return ErrNone
	}
	return fmt.Errorf("cannot ask for the secrets: %w", err)
}
