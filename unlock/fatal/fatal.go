// Package fatal has the one table of the words with which a boot can end.
//
// A word never changes its meaning; scripts may match on it. The line that
// the guest prints is
//
//	cocoroot: FATAL <CODE>: <what and what to do>
//
// The line is for people and for a simulated launch. On a real host it comes
// over a console that the host can forge, so it proves nothing.
package fatal

import (
	"errors"
	"fmt"
	"strings"
)

// Code is a stable word that names why a boot ended.
type Code string

// The codes, in the order of the boot.
const (
	Build         Code = "BUILD"
	Setup         Code = "SETUP"
	Policy        Code = "POLICY"
	Module        Code = "MODULE"
	NoDriver      Code = "NO-EFI-SECRET"
	DiskAbsent    Code = "DISK-ABSENT"
	DiskAmbiguous Code = "DISK-AMBIGUOUS"
	DiskSize      Code = "DISK-SIZE"
	Disk          Code = "DISK"
	Verity        Code = "VERITY"
	SecretNone    Code = "SECRET-NONE"
	SecretTable   Code = "SECRET-TABLE"
	SecretAbsent  Code = "SECRET-ABSENT"
	SecretForm    Code = "SECRET-FORM"
	LUKSHeader    Code = "LUKS-HEADER"
	LUKSKey       Code = "LUKS-KEY"
	LUKSMap       Code = "LUKS-MAP"
	Wipe          Code = "WIPE"
	RootMount     Code = "ROOT-MOUNT"
	Seal          Code = "SEAL"
	RootInit      Code = "ROOT-INIT"
	Switch        Code = "SWITCH"
	Deadline      Code = "DEADLINE"
	Crash         Code = "CRASH"
)

// Kind says whose fault a code points at; a simulated launch makes its exit
// code from it.
type Kind int

const (
	// Failed is any other failure.
	Failed Kind = iota
	// Secret means that the injected secret is missing or does not fit.
	Secret
	// Tampered means that the image is not the one that was measured.
	Tampered
)

// Entry is one line of the table.
type Entry struct {
	Code    Code
	Kind    Kind
	Meaning string // one sentence, as the README has it
}

// Table returns every code, in the order of the boot.
func Table() []Entry {
	return []Entry{
		{Build, Failed, "init was built without GOEXPERIMENT=runtimesecret, so it could leave key copies in memory"},
		{Setup, Failed, "the kernel lacks a file system that init needs (proc, sysfs, devtmpfs, securityfs, tmpfs)"},
		{Policy, Failed, "the measured command line has no image, or a parameter that is unknown, repeated or malformed"},
		{Module, Failed, "a kernel module of the archive could not be loaded"},
		{NoDriver, Failed, "the kernel has no efi_secret driver, neither built in nor as a module in the archive"},
		{DiskAbsent, Failed, "the disk did not appear in time"},
		{DiskAmbiguous, Failed, "more than one disk has the name that the command line gives"},
		{DiskSize, Failed, "the disk is smaller than the measured image"},
		{Disk, Failed, "the disk could not be read or mapped"},
		{Verity, Tampered, "the image is not the measured one: a block does not match the root hash"},
		{SecretNone, Secret, "no secret was injected"},
		{SecretTable, Secret, "the injected secret table is corrupt; the kernel took none of it"},
		{SecretAbsent, Secret, "secrets were injected, but none under the GUID of the disk key"},
		{SecretForm, Secret, "the key entry is empty or too long to be a key"},
		{LUKSHeader, Tampered, "the LUKS2 header has something that is not on the allow-list"},
		{LUKSKey, Secret, "the injected key does not open the image"},
		{LUKSMap, Failed, "the kernel refused the decrypted mapping"},
		{Wipe, Failed, "a secret could not be removed from memory"},
		{RootMount, Failed, "the file system in the image could not be mounted"},
		{Seal, Failed, "the kernel did not take the table that stops a running guest at a changed block"},
		{RootInit, Failed, "the image has no program to start"},
		{Switch, Failed, "switch_root failed"},
		{Deadline, Failed, "the boot took too long"},
		{Crash, Failed, "a part of init died"},
	}
}

// KindOf returns the kind of a code; an unknown code is Failed.
func KindOf(c Code) Kind {
	for _, e := range Table() {
		if e.Code == c {
			return e.Kind
		}
	}
	return Failed
}

// Error is an error that ends the boot with a code.
type Error struct {
	Code Code
	Err  error
}

// Error returns the text without the code.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; the format may wrap causes with %w.
func Errorf(c Code, format string, args ...any) error {
	return &Error{Code: c, Err: fmt.Errorf(format, args...)}
}

// CodeOf returns the code that err carries, or fallback.
func CodeOf(err error, fallback Code) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return fallback
}

const (
	prefix = "cocoroot: FATAL "
	// maxCode is the longest code that ParseLine takes, bytes.
	maxCode = 64
)

// notInCode reports whether r cannot stand in a code.
func notInCode(r rune) bool {
	return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// Line returns the console line for a failure. Line breaks in the text, which
// may quote foreign input, become spaces; other control characters are dropped.
func Line(c Code, text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0: // C0, DEL, C1
			return -1
		}
		return r
	}, text)
	return prefix + string(c) + ": " + text
}

// ParseLine reads a line that Line made; ok is false for any other line. Other
// text may stand before it: the kernel's own half line, which init's cuts.
func ParseLine(line string) (c Code, text string, ok bool) {
	_, rest, found := strings.Cut(line, prefix)
	if !found {
		return "", "", false
	}
	word, text, found := strings.Cut(rest, ": ")
	if !found || word == "" || len(word) > maxCode || strings.ContainsFunc(word, notInCode) {
		return "", "", false
	}
	return Code(word), text, true
}
