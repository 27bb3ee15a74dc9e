package measure

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"

	"cocoroot/initramfs/measure/ovmf"
)

const pageSize = 4096

// errFirmware is returned for an image that cannot be launched in the way asked
// for.
var errFirmware = errors.New("this image cannot be measured")

// Firmware is a whole OVMF image whose footer has been read.
type Firmware struct {
	image  []byte
	footer ovmf.Firmware
	hashed hash.Cloner // SHA-256 with the image written to it; to be cloned
}

// NewFirmware reads the footer of an image, hashes it and keeps it. Its errors
// are those of ovmf.Parse, and errFirmware.
func NewFirmware(image []byte) (Firmware, error) {
	footer, err := ovmf.Parse(image)
	if err != nil {
		return Firmware{}, err
	}
	if len(image)%pageSize != 0 {
		return Firmware{}, fmt.Errorf("%w: %d bytes are not a number of whole pages", errFirmware, len(image))
	}
	hashed := sha256.New().(hash.Cloner)
	hashed.Write(image)
	return Firmware{image, footer, hashed}, nil
}

// checkSections refuses metadata that does not say what an SEV-SNP launch
// measures. A section of an unknown type is refused too: QEMU measures it as
// zero pages, another VMM may not, and a firmware that relies on either has
// to be looked at first.
func (f Firmware) checkSections() error {
	if f.footer.Sections == nil {
		return fmt.Errorf("%w: it has no SEV metadata; it is not a build for SEV-SNP", errFirmware)
	}
	for _, s := range f.footer.Sections {
		switch s.Type {
		case ovmf.SecMem, ovmf.SVSMCAA:
		case ovmf.Secrets, ovmf.CPUID, ovmf.KernelHashes:
			if s.Size != pageSize {
				return fmt.Errorf("%w: its %s section at %#x has %d bytes, not one page", errFirmware, s.Type, s.Base, s.Size)
			}
		default:
			return fmt.Errorf("%w: its metadata section at %#x is of the unknown type %#x", errFirmware, s.Base, uint32(s.Type))
		}
	}
	return nil
}

func (f Firmware) base() uint64 { return f.footer.Base() }

// Footer returns what the footer says.
func (f Firmware) Footer() ovmf.Firmware { return f.footer }

// SHA256 returns the hash of the image.
func (f Firmware) SHA256() [sha256.Size]byte { return [sha256.Size]byte(f.hashed.Sum(nil)) }

// checkHashes refuses a firmware that would not find, and so not enforce, a
// table of hashes, and for SEV-SNP one whose metadata does not have the table's
// page measured.
func (f Firmware) checkHashes(snp bool) error {
	table := f.footer.Hashes
	err := table.Fits(TableSize)
	if err == nil && table.Base == 0 { // QEMU takes 0 for none
		err = ovmf.ErrNoArea
	}
	if err != nil {
		return fmt.Errorf("cannot measure a kernel: its hashes: %w", err)
	}
	// QEMU takes the table's offset in its page and writes it into the section:
	// in another page the firmware would not look.
	measured := func(s ovmf.Section) bool {
		return s.Type == ovmf.KernelHashes && s.Base == table.Base&^(pageSize-1) && table.Base%pageSize+TableSize <= pageSize
	}
	if snp && !slices.ContainsFunc(f.footer.Sections, measured) {
		return fmt.Errorf("cannot measure a kernel: the SEV metadata has no kernel_hashes section for the table at %#x: %w", table.Base, ovmf.ErrNoArea)
	}
	return nil
}
