// Package codes is the owner's side of fatal: what each code means, and the
// reading of the line on a guest's console. The guest links none of it.
package codes

import (
	"strings"

	"cocoroot/unlock/fatal"
)

// Kind says where a code puts the fault; a simulated launch derives its exit
// code from it.
type Kind int

const (
	// Failed is any other failure.
	Failed Kind = iota
	// Secret means that a secret is missing or does not fit.
	Secret
	// Tampered means that the image is not the one that was measured, or a state
	// disk not what the guest wrote.
	Tampered
)

// Entry is one line of the table.
type Entry struct {
	Code    fatal.Code
	Kind    Kind
	Meaning string // one sentence, as the README has it
}

// Table returns every code, in the order of the boot.
func Table() []Entry {
	return []Entry{
		{fatal.Build, Failed, "init was built without GOEXPERIMENT=runtimesecret, so it could leave key copies in memory"},
		{fatal.Setup, Failed, "the kernel lacks a file system that init needs (proc, sysfs, devtmpfs, securityfs, tmpfs)"},
		{fatal.Policy, Failed, "the measured command line has no image, or a parameter that is unknown, repeated or malformed"},
		{fatal.Module, Failed, "a kernel module of the archive could not be loaded, or the kernel would load more of them later"},
		{fatal.NoDriver, Failed, "the kernel has no efi_secret driver, neither built in nor as a module in the archive"},
		{fatal.DiskAbsent, Failed, "the disk did not appear in time"},
		{fatal.DiskAmbiguous, Failed, "more than one disk has the name that the command line gives"},
		{fatal.DiskSize, Failed, "the disk is smaller than the measured image"},
		{fatal.Disk, Failed, "the disk could not be read or mapped"},
		{fatal.Verity, Tampered, "the image is not the measured one: a block does not match the root hash"},
		{fatal.Attest, Failed, "the kernel gave no usable attestation report"},
		{fatal.Release, Secret, "the owner did not answer, or did not release the secrets"},
		{fatal.ReleaseForm, Secret, "the answer is not the owner's, or the table in it is malformed"},
		{fatal.SecretNone, Secret, "no secret was injected"},
		{fatal.SecretTable, Secret, "the injected secret table is corrupt; the kernel took none of it"},
		{fatal.SecretAbsent, Secret, "secrets were injected, but none under the GUID of the disk key"},
		{fatal.SecretForm, Secret, "the key entry is empty or too long to be a key"},
		{fatal.Credential, Secret, "there is no entry for a credential that the command line names, or it is empty or too long"},
		{fatal.LUKSHeader, Tampered, "the LUKS2 header has something that is not on the allow-list"},
		{fatal.LUKSKey, Secret, "the injected key does not open the image"},
		{fatal.LUKSMap, Failed, "the kernel refused the decrypted mapping, or the bounds of reads from it"},
		{fatal.Wipe, Failed, "a secret could not be removed from memory"},
		{fatal.RootMount, Failed, "the file system in the image could not be mounted"},
		{fatal.Arm, Failed, "the kernel did not take the table that stops a running guest at a changed block"},
		{fatal.RootInit, Failed, "the image has no program to start"},
		{fatal.Scratch, Failed, "the scratch disk is not there, or could not be encrypted, formatted or mounted"},
		{fatal.StateDisk, Failed, "a state disk is not there in time, has two uses, or cannot be read and written"},
		{fatal.StateSecret, Secret, "there is no entry under the GUID of the state key, or it is shorter than 32 bytes"},
		{fatal.StateOrders, Secret, "the orders for the state disks have a line that is unknown, repeated, or names no state"},
		{fatal.StateMissing, Failed, "a state disk is empty, and there is no order to create the state"},
		{fatal.StateHeader, Tampered, "a state disk has another state's header, or a broken one"},
		{fatal.StateSmall, Failed, "a state disk is smaller than the state on it, or too small for any"},
		{fatal.StateTable, Failed, "the kernel refused the decrypted mapping of a state disk"},
		{fatal.StateCorrupt, Tampered, "the file system on a state disk cannot be mounted: blocks are not the ones that were written"},
		{fatal.StateRollback, Tampered, "a state is older than the generation that the owner ordered as its floor"},
		{fatal.StatePath, Failed, "the image has no folder at the path of a state, or the state would hide what is started"},
		{fatal.Switch, Failed, "switch_root failed"},
		{fatal.Deadline, Failed, "the boot took too long"},
		{fatal.Crash, Failed, "a part of init died"},
	}
}

// KindOf returns the kind of a code; an unknown code is Failed.
func KindOf(c fatal.Code) Kind {
	for _, e := range Table() {
		if e.Code == c {
			return e.Kind
		}
	}
	return Failed
}

// maxCode is the longest code that ParseLine takes, bytes.
const maxCode = 64

// notInCode reports whether r cannot be part of a code.
func notInCode(r rune) bool {
	return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// ParseLine reads a line that fatal.Line made; ok is false for any other line. Other
// text may come before it, such as a line of the kernel's that init's interrupts.
func ParseLine(line string) (c fatal.Code, text string, ok bool) {
	_, rest, found := strings.Cut(line, fatal.Prefix)
	if !found {
		return "", "", false
	}
	word, text, found := strings.Cut(rest, ": ")
	if !found || word == "" || len(word) > maxCode || strings.ContainsFunc(word, notInCode) {
		return "", "", false
	}
	return fatal.Code(word), text, true
}
