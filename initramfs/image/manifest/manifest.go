// Package manifest describes a sealed image to the tools that start and check
// it. It holds nothing secret and nothing that is believed: what counts is
// the command line that is measured.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/verity"
)

// MaxSize bounds a manifest in bytes: a command line, every character of it
// escaped, and some text.
const MaxSize = 32 << 10

// Manifest is the content of IMAGE.manifest.json.
type Manifest struct {
	Version int `json:"version"`
	// Image is the image's hash with all of its parameters, as it is on
	// the command line.
	Image verity.Params `json:"image"`
	// Size is the size of the whole image in bytes, hash tree included.
	Size uint64 `json:"size"`
	// LUKS is the UUID of the LUKS2 header.
	LUKS string `json:"luks_uuid"`
	// FSType is the file system inside, by the kernel's name.
	FSType policy.FSType `json:"filesystem"`
	// Key is the secret entry that opens the image.
	Key efi.GUID `json:"key"`
	// States are the disks that outlive the guest, as they are on the command
	// line, and StateKey is the secret entry with their key.
	States   []string `json:"states,omitempty"`
	StateKey efi.GUID `json:"state_key,omitzero"`
	// Cmdline is the whole command line, without a line break.
	Cmdline string `json:"cmdline"`
	// Program is of a container image.
	Program *Program `json:"program,omitempty"`
	// Digests are what launches of it measure, with the firmware, the kernel
	// and the archive that were named when it was sealed.
	Digests []Digest `json:"digests,omitempty"`
}

// Digest is what one launch measures.
type Digest struct {
	Mode     string `json:"mode"` // sev, sev-es, sev-snp
	VCPUs    int    `json:"vcpus,omitempty"`
	VCPUType string `json:"vcpu_type,omitempty"`
	Digest   string `json:"digest"` // in hex
}

// StatesOf returns the States of a policy.
func StatesOf(p policy.Policy) []string {
	var all []string
	for _, s := range p.States {
		all = append(all, s.String())
	}
	return all
}

// Marshal returns the manifest as indented JSON with a line break at its end.
func (m Manifest) Marshal() ([]byte, error) {
	text, err := strictjson.Encode(m)
	if err == nil && len(text) > MaxSize {
		err = fmt.Errorf("cannot write the manifest: %w", strictjson.ErrTooLong)
	}
	return text, err
}

// ErrFormat is returned for bytes that Marshal did not write.
var ErrFormat = errors.New("not a manifest as cocoroot seal writes it")

// Parse reads what Marshal wrote, byte for byte: whatever else means the same
// to some reader of JSON (repeated or unknown fields, other case, other order)
// is refused. The manifest comes from whoever keeps it beside the image. What
// it says of the image must be what its command line says, which is the only thing that is
// measured.
func Parse(b []byte) (Manifest, error) {
	var m Manifest
	if err := strictjson.DecodeKind(b, MaxSize, &m, ""); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrFormat, err)
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
	case !slices.Equal(m.States, StatesOf(p)) || m.StateKey != p.StateKey:
		return fmt.Errorf("%w: it has other states than its command line", ErrFormat)
	case m.FSType != p.FSType:
		return fmt.Errorf("%w: it has another file system than its command line", ErrFormat)
	case m.Size != p.Image.DeviceSize():
		return fmt.Errorf("%w: an image with this hash has %d bytes, not %d", ErrFormat, p.Image.DeviceSize(), m.Size)
	}
	return nil
}
