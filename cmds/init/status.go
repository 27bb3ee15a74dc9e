package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/dm"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/root"
	"cocoroot/unlock/state"
	"cocoroot/unlock/unseal"
	"cocoroot/unlock/verity"
)

// status is /run/cocoroot/status.json, for programs in the image. It contains
// no secret and proves nothing to anyone outside the guest.
type status struct {
	Version int             `json:"version"` // of this format
	Image   verity.Params   `json:"image"`
	Disk    string          `json:"disk"`
	Scratch string          `json:"scratch,omitempty"` // the disk under the writable layer
	States  []state.Mounted `json:"states,omitempty"`
	Key     efi.GUID        `json:"key"`     // the entry that opened the image
	From    string          `json:"from"`    // how the secrets came: injected, or the channel to the owner
	Secrets []efi.GUID      `json:"secrets"` // the entries that came; of the owner's, the kept ones and the key
	Steps   []unseal.Step   `json:"steps"`
	Usage   struct {
		Init   usage `json:"init"`   // the first process
		Unseal usage `json:"unseal"` // the child that unsealed
	} `json:"usage"`
}

// usage is what a process has used.
type usage struct {
	Milliseconds float64 `json:"cpu_ms"` // of processor time
	PeakKiB      int64   `json:"peak_memory_kib"`
}

func (b *boot) writeStatus() error {
	if err := b.tellUdev(); err != nil {
		return err
	}
	from := "injected"
	if b.policy.Release.Asks() {
		from = b.policy.Release.Channel.String()
	}
	s := status{Version: 1, From: from, Image: b.policy.Image, Disk: b.disk.Path, Scratch: b.scratch.Path, States: b.states, Key: b.policy.Key, Secrets: b.guids, Steps: b.steps}
	s.Usage.Init, s.Usage.Unseal = usageOf(unix.RUSAGE_SELF), usageOf(unix.RUSAGE_CHILDREN)
	s.Usage.Init.Milliseconds -= b.before
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root.RunDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root.RunDir, "status.json"), append(text, '\n'), 0o444)
}

// tellUdev makes the devices known to the udev of the real root.
func (b *boot) tellUdev() error {
	names := []string{unseal.VerityName, unseal.RootName}
	for _, s := range b.policy.States {
		names = append(names, state.VolumeName(s.Name))
	}
	for _, name := range names {
		if err := dm.TellUdev(name); err != nil {
			return err
		}
	}
	return nil
}

func usageOf(who int) usage {
	var u unix.Rusage
	if unix.Getrusage(who, &u) != nil {
		return usage{}
	}
	return usage{float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6, u.Maxrss}
}
