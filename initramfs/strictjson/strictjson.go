// Package strictjson reads the small JSON files that host and owner exchange:
// one value, known fields, a bounded size.
//
// As in all of encoding/json, a field that stands twice has its last value and
// names match in either case: what must not be ambiguous has to be
// authenticated after it was read, as a report and a packet are.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// What Decode refuses besides what encoding/json does.
var (
	ErrTooLong = errors.New("too long")
	ErrTrailer = errors.New("something follows it")
)

// Decode reads b, which has at most limit bytes, into v. It refuses a field
// that v does not have, and anything but white space behind the value.
func Decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return ErrTrailer
	}
	return nil
}
