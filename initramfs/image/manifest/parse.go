package manifest

import (
	"bytes"
	"errors"
	"fmt"

	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
)

// MaxSize bounds a manifest in bytes: a command line, every character of it
// escaped, and some text.
const MaxSize = 32 << 10

// ErrFormat is returned for bytes that Marshal did not write.
var ErrFormat = errors.New("not a manifest as cocoroot seal writes it")

// Parse reads what Marshal wrote, byte for byte: whatever else means the same
// to some reader of JSON (repeated or unknown fields, other case, other order)
// is refused. The manifest comes from whoever keeps it beside the image. What
// it says of the image must be what its command line says, which is the only thing that is
// measured.
func Parse(b []byte) (Manifest, error) {
	var m Manifest
	if err := strictjson.Decode(b, MaxSize, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if m.Version != Version {
		return Manifest{}, fmt.Errorf("%w: version %d; this program knows version %d", ErrFormat, m.Version, Version)
	}
	if err := m.check(); err != nil {
		return Manifest{}, err
	}
	again, err := m.Marshal()
	if err != nil {
		return Manifest{}, err
	}
	if !bytes.Equal(again, b) {
		return Manifest{}, fmt.Errorf("%w: it was rewritten, or has a field twice", ErrFormat)
	}
	return m, nil
}

// check compares the manifest with its command line.
func (m Manifest) check() error {
	p, err := policy.Parse(m.Cmdline)
	if err != nil {
		return fmt.Errorf("%w: its command line: %w", ErrFormat, err)
	}
	if _, err := efi.Parse(m.LUKS); err != nil {
		return fmt.Errorf("%w: the UUID of the LUKS2 header: %w", ErrFormat, err)
	}
	switch {
	case m.Image.String() != p.Image.String():
		return fmt.Errorf("%w: it has another image than its command line", ErrFormat)
	case m.Key != p.Key:
		return fmt.Errorf("%w: it has another key entry than its command line", ErrFormat)
	case m.FSType != p.FSType:
		return fmt.Errorf("%w: it has another file system than its command line", ErrFormat)
	case m.Size != p.Image.DeviceSize():
		return fmt.Errorf("%w: an image with this hash has %d bytes, not %d", ErrFormat, p.Image.DeviceSize(), m.Size)
	}
	return nil
}
