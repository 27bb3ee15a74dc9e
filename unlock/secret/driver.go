package secret

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
)

// driverDir is where the kernel shows the driver once it is loaded.
const driverDir = "/sys/bus/platform/drivers/efi_secret"

// WhyNoStore tells the causes of ErrNoStore apart: it asks the driver to bind
// once more and reads the answer (efi_secret.c: EINVAL, or EEXIST for a GUID that
// is there twice, for a table that it refuses, whose bytes stay where they are,
// ENODEV for an area without the table's GUID). The error has the code
// NO-EFI-SECRET, SECRET-TABLE or SECRET-NONE, or none when the answer is another.
func WhyNoStore() error { return whyNoStore(driverDir) }

func whyNoStore(driver string) error {
	if _, err := os.Stat(driver); err != nil {
		return fatal.Errorf(fatal.NoDriver, "the kernel has no efi_secret driver; take one that has (Fedora, SUSE, Ubuntu; not Debian) or build it with CONFIG_EFI_SECRET, and put its modules into the archive (cocoroot initrd --modules)")
	}
	err := os.WriteFile(driver+"/bind", []byte("efi_secret.0"), 0)
	switch {
	case err == nil:
		return errors.New("cannot ask for the secrets: the driver took them at the second try only")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EEXIST):
		return fatal.Errorf(fatal.SecretTable, "the injected secret table is corrupt and the kernel took none of it; build it with cocoroot secret build")
	case errors.Is(err, unix.ENODEV):
		return fatal.Errorf(fatal.SecretNone, "no secret was injected; launch the guest with its secret")
	}
	return fmt.Errorf("cannot ask for the secrets: %w", err)
}
