// Package strictjson reads the small JSON files that host and owner exchange:
// one value, known fields, a bounded size.
//
// As in all of encoding/json, a field that appears twice has its last value and
// names match in either case: what must not be ambiguous has to be
// authenticated after it was read, as a report and a packet are.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Errors returned by Decode, and ErrKind by DecodeKind, besides those of
// encoding/json.
var (
	ErrTooLong = errors.New("too long")
	errTrailer = errors.New("something follows it")
	ErrKind    = errors.New("it is of another kind")
)

// Decode reads b, which has at most limit bytes, into v. It refuses a field
// that v does not have, and anything but white space after the value.
func Decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return Plain(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errTrailer
	}
	return nil
}

// Version is the version of each kind of file so far.
const Version = 1

// DecodeKind is Decode for a file that says what kind it is of, and in which
// version. One of another kind is an ErrKind, whatever else it holds.
func DecodeKind(b []byte, limit int, v any, kinds ...string) error {
	var f struct {
		Kind    string
		Version int
	}
	known := func() error {
		if f.Version != Version {
			return fmt.Errorf("version %d; this program knows version %d", f.Version, Version)
		}
		return nil
	}
	if len(b) <= limit && json.Unmarshal(b, &f) == nil {
		if !slices.Contains(kinds, f.Kind) {
			return fmt.Errorf("%w: %.40q, not %q", ErrKind, f.Kind, kinds[0])
		}
		if f.Version != 0 && known() != nil {
			return known() // rather than what is new in it
		}
	}
	if err := Decode(b, limit, v); err != nil {
		return err
	}
	return known()
}

// Encode returns what Decode reads, on lines, with a line break at the end.
func Encode(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write it: %w", err)
	}
	return append(b, '\n'), nil
}

// Plain returns an error of encoding/json in words that are not Go's. Others
// stay as they are.
func Plain(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what, _, _ := strings.Cut(e.Value, " ") // the value itself may be long
		if e.Field == "" {
			return fmt.Errorf("it is of the wrong kind: %s", what)
		}
		return fmt.Errorf("the %s at %q is of the wrong kind, or too large", what, e.Field)
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is not JSON from byte %d on", e.Offset)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	if text, ok := strings.CutPrefix(err.Error(), "json: "); ok {
		return errors.New(text)
	}
	return err
}
