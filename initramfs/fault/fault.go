// Package fault has the errors of the owner's tool that say more than what
// went wrong: the next step to take, and the exit code of the process.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// The exit codes of the tool.
const (
	OK          = 0
	Failed      = 1
	Usage       = 2 // the call is wrong
	Mismatch    = 3 // a measurement is not the expected one
	Secret      = 4 // a secret was refused
	Tampered    = 5 // an image, or what belongs to it, is not what was sealed
	Interrupted = 130
)

// Error is an error with an exit code and, mostly, a next step.
type Error struct {
	Code int
	Err  error
	Hint string // the next step to take; may be empty
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error without its hint.
func (e *Error) Unwrap() error { return e.Err }

// New returns err with an exit code and a next step.
func New(code int, err error, hint string) error { return &Error{code, err, hint} }

// Usagef returns an error for wrong use of a command.
func Usagef(format string, args ...any) error {
	return &Error{Code: Usage, Err: fmt.Errorf(format, args...)}
}

// Hintf adds the next step to err.
func Hintf(err error, format string, args ...any) error {
	return &Error{Code: Code(err), Err: err, Hint: fmt.Sprintf(format, args...)}
}

// Code returns the exit code that an error comes to.
func Code(err error) int {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	return Failed
}
