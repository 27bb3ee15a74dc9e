// Package fatal has the codes with which a boot can end. What they mean, and how
// to read them off a console, is in fatal/codes.
//
// A code never changes its meaning; scripts may match on it. The line that
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
	Attest        Code = "ATTEST"
	Release       Code = "RELEASE"
	ReleaseForm   Code = "RELEASE-FORM"
	SecretNone    Code = "SECRET-NONE"
	SecretTable   Code = "SECRET-TABLE"
	SecretAbsent  Code = "SECRET-ABSENT"
	SecretForm    Code = "SECRET-FORM"
	Credential    Code = "CREDENTIAL"
	LUKSHeader    Code = "LUKS-HEADER"
	LUKSKey       Code = "LUKS-KEY"
	LUKSMap       Code = "LUKS-MAP"
	Wipe          Code = "WIPE"
	RootMount     Code = "ROOT-MOUNT"
	Arm           Code = "SEAL" // the word is the first release's and stays
	RootInit      Code = "ROOT-INIT"
	Scratch       Code = "SCRATCH"
	StateDisk     Code = "STATE-DISK"
	StateSecret   Code = "STATE-SECRET"
	StateOrders   Code = "STATE-ORDERS"
	StateMissing  Code = "STATE-MISSING"
	StateHeader   Code = "STATE-HEADER"
	StateSmall    Code = "STATE-SMALL"
	StateTable    Code = "STATE-TABLE"
	StateCorrupt  Code = "STATE-CORRUPT"
	StateRollback Code = "STATE-ROLLBACK"
	StatePath     Code = "STATE-PATH"
	Switch        Code = "SWITCH"
	Deadline      Code = "DEADLINE"
	Crash         Code = "CRASH"
)

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

// Prefix begins the line that Line makes.
const Prefix = "cocoroot: FATAL "

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
	return Prefix + string(c) + ": " + text
}
