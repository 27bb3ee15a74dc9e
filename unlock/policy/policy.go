// Package policy reads what the owner measured: the kernel command line.
//
// The line is measured together with firmware, kernel and initrd, so its
// content is the owner's. Parsing is strict nevertheless: a parameter that
// this version does not know may be one that a later version needs to be
// safe, and a repeated one hides a mistake.
//
// A policy says which image may run. It does not say that the image is the
// newest one the owner sealed.
package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/verity"
)

// MaxLength is the longest command line in bytes that Parse reads: the
// kernel's COMMAND_LINE_SIZE on x86 (arch/x86/include/asm/setup.h).
const MaxLength = 2048

// Prefix begins every parameter that is ours.
const Prefix = "cocoroot."

// Errors returned by Parse.
var (
	ErrMissing   = errors.New("parameter is missing")
	ErrUnknown   = errors.New("parameter is unknown")
	ErrRepeated  = errors.New("parameter is repeated")
	ErrMalformed = errors.New("parameter is malformed")
)

// DefaultKey is the GUID under which grub, libvirt and sevctl inject the
// disk passphrase (grub's GRUB_EFI_DISKPASSWD_GUID).
var DefaultKey = efi.MustParse("736869e5-84f0-4973-92ec-06879ce3da0b")

// Action is what happens after a failure.
type Action string

// The actions, named as in the command line.
const (
	PowerOff Action = "poweroff"
	Reboot   Action = "reboot"
	Halt     Action = "halt"
)

// Modules says whether the image may load kernel modules.
type Modules string

// What may become of kernel modules, named as in the command line.
const (
	Closed Modules = "closed" // none after init has loaded its own, until the next boot
	Open   Modules = "open"   // the image loads what it likes
)

// FSType is a file system that a sealed image may hold, by the kernel's name.
type FSType string

// The file systems.
const (
	Squashfs FSType = "squashfs"
	EROFS    FSType = "erofs"
	Ext4     FSType = "ext4"
)

// Policy is a measured command line that was understood in full.
type Policy struct {
	Disk    Disk          // where the image is; untrusted, Image decides
	Image   verity.Params // which image it is
	Key     efi.GUID      // the secret entry that is the disk key
	Overlay Overlay       // the writable layer
	OnFail  Action
	Keep    Keep          // which other secret entries stay; see Kept
	Timeout time.Duration // how long to wait for the disk
	Modules Modules
	Release Release // how the secrets come when they are not injected
	Network Static  // ip=, when it gives a fixed address
	Console bool    // the image's program reads the console, which is the host's; else /dev/null

	States   []State  // the disks that outlive the guest
	StateKey efi.GUID // the secret entry from which their keys are derived; zero without States

	Credentials []Credential // the secret entries that systemd gives to units; see Kept

	FSType    FSType // rootfstype=
	RootFlags string // rootflags=, given to mount(2) as data
	Init      string // init=, an absolute path in the image
}

// Defaults returns the policy of a command line that names nothing.
func Defaults() Policy {
	return Policy{
		Key:     DefaultKey,
		Overlay: Overlay{RAM: true},
		OnFail:  PowerOff,
		Keep:    Keep{All: true},
		Timeout: 30 * time.Second,
		Modules: Closed,
		Init:    "/sbin/init",
	}
}

// Parse reads a command line as /proc/cmdline has it. What follows "--" is
// for the image's init and is not looked at.
func Parse(cmdline string) (Policy, error) {
	p := Defaults()
	if len(cmdline) > MaxLength {
		return p, fmt.Errorf("%w: the command line has %d bytes; the kernel keeps %d", ErrMalformed, len(cmdline), MaxLength)
	}
	// The kernel takes more for a space, 0xa0 too; terminals and systemd have their own views.
	if strings.ContainsFunc(strings.TrimSuffix(cmdline, "\n"), func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) {
		return p, fmt.Errorf("%w: the command line has a character that is not printable ASCII", ErrMalformed)
	}
	seen := make(map[string]bool)
	for _, w := range words(cmdline) {
		if err := p.take(w, seen); err != nil {
			return p, err
		}
	}
	if seen["channel"] && !seen["owner"] {
		return p, fmt.Errorf("%w: %sowner=, which %schannel= is for", ErrMissing, Prefix, Prefix)
	}
	if seen["owner"] && !seen["channel"] {
		p.Release.Channel = defaultChannel
	}
	for _, need := range []string{"disk", "image"} {
		if !seen[need] {
			return p, fmt.Errorf("%w: %s%s=", ErrMissing, Prefix, need)
		}
	}
	if p.FSType == "" {
		return p, fmt.Errorf("%w: rootfstype=", ErrMissing)
	}
	if err := p.checkStates(); err != nil {
		return p, err
	}
	return p, p.checkCredentials()
}

// take takes one parameter: one of ours, or one that the kernel's own root code
// would read. Of those, as there, the last one counts.
func (p *Policy) take(w word, seen map[string]bool) (err error) {
	name, ours := strings.CutPrefix(w.name, Prefix)
	if ours && seen[name] && name != "state" && name != "credential" {
		return fmt.Errorf("%w: %.64q", ErrRepeated, w.name)
	}
	if ours {
		seen[name] = true
	}
	switch w.name {
	case Prefix + "disk":
		p.Disk, err = ParseDisk(w.value)
	case Prefix + "image":
		p.Image, err = verity.Parse(w.value)
	case Prefix + "key":
		p.Key, err = parseGUID(w.value)
	case Prefix + "overlay":
		p.Overlay, err = ParseOverlay(w.value)
	case Prefix + "onfail":
		p.OnFail, err = oneOf(w.value, PowerOff, Reboot, Halt)
	case Prefix + "state":
		var state State
		state, err = ParseState(w.value)
		p.States = append(p.States, state)
	case Prefix + "state-key":
		p.StateKey, err = parseGUID(w.value)
	case Prefix + "credential":
		var credential Credential
		credential, err = ParseCredential(w.value)
		p.Credentials = append(p.Credentials, credential)
	case Prefix + "keep":
		p.Keep, err = ParseKeep(w.value)
	case Prefix + "timeout":
		p.Timeout, err = parseTimeout(w.value)
	case Prefix + "modules":
		p.Modules, err = oneOf(w.value, Closed, Open)
	case Prefix + "owner":
		p.Release.Owner, err = ParseOwner(w.value)
	case Prefix + "channel":
		p.Release.Channel, err = ParseChannel(w.value)
	case Prefix + "stdin":
		_, err = oneOf(w.value, "null", "console")
		p.Console = w.value == "console"
	case "rootfstype":
		p.FSType, err = oneOf(w.value, Squashfs, EROFS, Ext4)
	case "rootflags":
		p.RootFlags = w.value
	case "ip":
		p.Network, err = parseStatic(w.value)
	case "init":
		if p.Init = w.value; !strings.HasPrefix(p.Init, "/") {
			err = fmt.Errorf("%.64q is not an absolute path", w.value)
		}
	default:
		if strings.HasPrefix(strings.ToLower(w.name), "cocoroot") {
			return fmt.Errorf("%w: %.64q", ErrUnknown, w.name)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %s=: %w", ErrMalformed, w.name, err)
	}
	return nil
}
