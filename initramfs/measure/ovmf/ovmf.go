// Package ovmf reads the footer of an OVMF firmware image: the GUIDed table
// at its end in which a build for SEV says where it wants the secrets, the
// kernel hashes and the pages that the launch measures.
//
// The addresses differ from build to build, so nothing in this program
// assumes one: who writes into a guest's memory, or predicts its launch
// digest, asks Parse.
//
// The image comes from whoever distributes the firmware and may be damaged or
// hostile. What Parse returns is consistent (areas lie below the firmware, do
// not wrap, do not overlap), and nothing more: whether this firmware is the
// one to trust is decided by its launch digest.
package ovmf

import (
	"errors"
	"fmt"

	"cocoroot/initramfs/fault"
	"cocoroot/unlock/efi"
)

// The GUIDs of the footer and of its entries (edk2
// OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm).
var (
	footerGUID   = efi.MustParse("96b582de-1fb2-45f7-baea-a366c55a082d")
	resetGUID    = efi.MustParse("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	secretGUID   = efi.MustParse("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
	hashesGUID   = efi.MustParse("7255371f-3a3b-4b04-927b-1da6efa8d454")
	metadataGUID = efi.MustParse("dc886566-984a-4798-a75e-5585a7bf67cc")
)

var (
	// ErrNoFooter is returned for an image that is not an OVMF build, or one
	// from before OVMF had a footer.
	ErrNoFooter = fault.Hintf(errors.New("no OVMF footer at the end of the image"), amdSev)
	// ErrFooter is returned for a footer, or for SEV metadata that it points
	// at, which contradicts itself or the size of the image.
	ErrFooter = errors.New("the OVMF footer is damaged")
	// ErrNoArea is returned by Fits for an area that the firmware lacks:
	// it is not a build for measured direct boot (OVMF's AmdSev package is).
	ErrNoArea = fault.Hintf(errors.New("the firmware has no place for it"), amdSev)
	// ErrTooLong is returned by Fits for data longer than the area.
	ErrTooLong = errors.New("longer than the firmware's area for it")
)

// amdSev is the next step where another firmware is needed.
const amdSev = "use OVMF's AmdSev build; ./build.sh firmware builds it"

// Area is a range of guest-physical memory.
type Area struct {
	Base uint32 // guest-physical address
	Size uint32 // bytes; 0 when the firmware has no such area
}

// Present reports whether the firmware has the area at all. Plain OVMF builds
// carry entries of address 0 and size 0.
func (a Area) Present() bool { return a.Size != 0 }

// Fits returns nil when n bytes fit into the area, ErrNoArea when there is
// none, and ErrTooLong otherwise. QEMU does not check: what is longer than
// the secret area overwrites the kernel hashes after it.
func (a Area) Fits(n int) error {
	switch {
	case n == 0:
		return nil
	case !a.Present():
		return ErrNoArea
	case uint64(n) > uint64(a.Size):
		return fmt.Errorf("%w: %d bytes, room for %d", ErrTooLong, n, a.Size)
	}
	return nil
}

func (a Area) end() uint64 { return uint64(a.Base) + uint64(a.Size) }

func (a Area) overlaps(b Area) bool {
	return a.Present() && b.Present() && uint64(a.Base) < b.end() && uint64(b.Base) < a.end()
}

// Firmware is what the footer says.
type Firmware struct {
	ImageSize int  // bytes; the image ends at 4 GiB in the guest's memory
	Secret    Area // where the secret table is injected
	Hashes    Area // where the table of kernel hashes is written

	// ResetAddress is where application processors start under SEV-ES; 0 when
	// the footer has no such entry.
	ResetAddress uint32

	// Sections is the SEV metadata in the order of the image, which is the
	// order of the SEV-SNP measurement; nil when the image has none.
	Sections []Section
}

// Base returns the guest-physical address of the image's first byte.
func (f Firmware) Base() uint64 { return fourGiB - uint64(f.ImageSize) }
