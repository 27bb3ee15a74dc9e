package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"cocoroot/unlock/efi"
)

// Shim says whether a firmware starts an EFI program that the host gives it as
// fw_cfg etc/boot/shim.
type Shim string

// The answers. A firmware whose code is packed in another way than OVMF's
// gives no answer.
const (
	ShimUnknown Shim = "not known"
	ShimLoaded  Shim = "yes"
	NoShim      Shim = "no"
)

// lzmaGUID marks a section that is packed with LZMA (edk2
// MdeModulePkg/Include/Guid/LzmaDecompress.h). It follows the section's
// head: u24 little-endian length of the whole section, type 2; after it, u16
// offset of the packed data in the section (PI specification, volume 3,
// EFI_GUID_DEFINED_SECTION).
var lzmaGUID = efi.MustParse("ee4e5898-3914-4259-9d6e-dc7bd79403cf")

const (
	guidedSection = 2
	sectionHead   = 4          // bytes before the GUID
	guidedHead    = 4 + 16 + 4 // bytes before the packed data, at least
	maxPacked     = 8          // packed sections that are looked into; OVMF has one
	maxUnpacked   = 64 << 20   // bytes that one may unpack to, and LZMA's window
)

// FindShim looks for the name under which firmware asks for the program: the
// path itself, or the file "shim" of edk2's loader (OvmfPkg, QemuLoadImageLib).
// It looks through the image and what is packed in it, within bounds. It is a
// search for words, and believes a firmware that hides them.
func FindShim(image []byte) Shim {
	if namesShim(image) {
		return ShimLoaded
	}
	unpacked, sealed := 0, 0
	for rest := image; unpacked+sealed < maxPacked; {
		at := bytes.Index(rest, lzmaGUID[:])
		if at < 0 {
			break
		}
		if at >= sectionHead {
			code, err := unpack(rest[at-sectionHead:])
			switch {
			case namesShim(code):
				return ShimLoaded
			case err == nil:
				unpacked++
			case !errors.Is(err, errNoSection):
				sealed++
			}
		}
		rest = rest[at+len(lzmaGUID):]
	}
	if unpacked == 0 || sealed > 0 || unpacked == maxPacked {
		return ShimUnknown
	}
	return NoShim
}

// namesShim reports whether code has one of the names, as edk2 writes them:
// fw_cfg's in ASCII, those of files in UTF-16.
func namesShim(code []byte) bool {
	return bytes.Contains(code, []byte("etc/boot/shim\x00")) || bytes.Contains(code, []byte("s\x00h\x00i\x00m\x00\x00\x00"))
}

// errNoSection is returned by unpack where the GUID is there for another reason:
// code that unpacks has it too.
var errNoSection = errors.New("no packed section")

// unpack returns what is packed in the section that b begins with.
func unpack(b []byte) ([]byte, error) {
	if len(b) < guidedHead || b[3] != guidedSection {
		return nil, errNoSection
	}
	size, offset := int(b[0])|int(b[1])<<8|int(b[2])<<16, int(binary.LittleEndian.Uint16(b[20:]))
	if size > len(b) || offset < guidedHead || offset > size {
		return nil, errNoSection
	}
	r, err := lzma.ReaderConfig{DictCap: maxUnpacked}.NewReader(bytes.NewReader(b[offset:size]))
	if err != nil {
		return nil, err
	}
	code, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if err == nil && len(code) > maxUnpacked {
		err = errors.New("it is too long")
	}
	return code, err
}
