// Package manifest describes a sealed image to the tools that start and check
// it. It holds nothing secret and nothing that is believed: what counts is
// the command line that is measured.
package manifest

import (
	"encoding/json"
	"fmt"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/verity"
)

// Version is the version of the format.
const Version = 1

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
	// Cmdline is the whole command line, without a line break.
	Cmdline string `json:"cmdline"`
}

// Marshal returns the manifest as indented JSON with a line break at its end.
func (m Manifest) Marshal() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write the manifest: %w", err)
	}
	return append(text, '\n'), nil
}
