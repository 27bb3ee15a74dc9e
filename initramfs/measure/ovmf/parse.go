package ovmf

import (
	"encoding/binary"
	"fmt"

	"cocoroot/unlock/efi"
)

const (
	fourGiB = 1 << 32

	// resetVectorSize is the number of bytes between the footer's end and
	// the end of the image: the last 32 bytes hold the reset vector.
	resetVectorSize = 32
	// headSize is the size of what follows the data of each entry: u16
	// little-endian length of data and head together, then the GUID.
	headSize = 2 + 16
)

// Parse reads the footer of a whole firmware image. Entries that it does not
// know are skipped. It reads at most the 64 KiB that a footer can be long and
// the metadata that it points at, and keeps no reference to image.
func Parse(image []byte) (Firmware, error) {
	f := Firmware{ImageSize: len(image)}
	if uint64(len(image)) > fourGiB/2 {
		return Firmware{}, fmt.Errorf("%w: %d bytes are no firmware", ErrNoFooter, len(image))
	}
	end := len(image) - resetVectorSize
	if end < headSize {
		return Firmware{}, fmt.Errorf("%w: only %d bytes", ErrNoFooter, len(image))
	}
	guid, length := head(image[:end])
	if guid != footerGUID {
		return Firmware{}, ErrNoFooter
	}
	if length < headSize || length > end {
		return Firmware{}, fmt.Errorf("%w: its length is %d bytes, of which the image has room for %d to %d", ErrFooter, length, headSize, end)
	}
	entries := image[end-length : end-headSize]
	seen := map[efi.GUID]bool{footerGUID: true}
	for len(entries) > 0 {
		guid, data, rest, err := lastEntry(entries)
		if err != nil {
			return Firmware{}, err
		}
		if seen[guid] {
			return Firmware{}, fmt.Errorf("%w: entry %s appears twice", ErrFooter, guid)
		}
		seen[guid] = true
		if err := f.take(guid, data, image); err != nil {
			return Firmware{}, fmt.Errorf("%w: entry %s: %w", ErrFooter, guid, err)
		}
		entries = rest
	}
	if f.Secret.overlaps(f.Hashes) {
		return Firmware{}, fmt.Errorf("%w: the secret area at %#x overlaps the hashes area at %#x", ErrFooter, f.Secret.Base, f.Hashes.Base)
	}
	return f, nil
}

// head reads the GUID and the length at the end of b, which has at least
// headSize bytes.
func head(b []byte) (efi.GUID, int) {
	h := b[len(b)-headSize:]
	return efi.GUID(h[2:]), int(binary.LittleEndian.Uint16(h))
}

// lastEntry splits the last entry off b.
func lastEntry(b []byte) (guid efi.GUID, data, rest []byte, err error) {
	if len(b) < headSize {
		return guid, nil, nil, fmt.Errorf("%w: %d bytes are left before its first entry", ErrFooter, len(b))
	}
	guid, length := head(b)
	if length < headSize || length > len(b) {
		return guid, nil, nil, fmt.Errorf("%w: entry %s is %d bytes long, of which there is room for %d to %d", ErrFooter, guid, length, headSize, len(b))
	}
	start := len(b) - length
	return guid, b[start : len(b)-headSize], b[:start], nil
}

// take puts the value of one entry where it belongs.
func (f *Firmware) take(guid efi.GUID, data, image []byte) (err error) {
	var fromEnd uint32
	into, known := map[efi.GUID]any{
		secretGUID: &f.Secret, hashesGUID: &f.Hashes, resetGUID: &f.ResetAddress, metadataGUID: &fromEnd,
	}[guid]
	if !known {
		return nil
	}
	if want := binary.Size(into); len(data) != want {
		return fmt.Errorf("%d bytes of data; want %d", len(data), want)
	}
	if _, err := binary.Decode(data, binary.LittleEndian, into); err != nil {
		return err
	}
	switch guid {
	case secretGUID:
		return f.check(f.Secret)
	case hashesGUID:
		return f.check(f.Hashes)
	case metadataGUID:
		f.Sections, err = f.metadata(image, fromEnd)
	}
	return err
}

// check refuses an area that reaches into the firmware or past 4 GiB.
func (f *Firmware) check(a Area) error {
	if a.end() > f.Base() {
		return fmt.Errorf("%#x bytes at %#x reach into the firmware at %#x", a.Size, a.Base, f.Base())
	}
	return nil
}
