package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Bounds of the JSON text. That of a header with one keyslot and no token has
// about 800 bytes, 60 values, and 4 levels.
const (
	maxText   = 64 << 10
	maxDepth  = 8
	maxValues = 256
)

// parseJSON reads text into map[string]any, []any, string and json.Number.
// Repeated keys, true, false and null are refused, and so is more of anything
// than the bounds allow. The text may come from anyone.
func parseJSON(text []byte) (map[string]any, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%d bytes are more than %d", len(text), maxText)
	}
	// The same scanner that json.Unmarshal goes through, and so the library
	// that unlocks: the tokens below come from another one.
	if !json.Valid(text) {
		return nil, errors.New("is not JSON")
	}
	d := &decoder{Decoder: json.NewDecoder(bytes.NewReader(text))}
	d.UseNumber()
	v, err := d.value(0)
	if err != nil {
		return nil, err
	}
	root, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("is not an object")
	}
	return root, nil
}

type decoder struct {
	*json.Decoder
	values int
}

func (d *decoder) value(depth int) (any, error) {
	tok, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d levels", maxDepth)
	}
	if d.values++; d.values > maxValues {
		return nil, fmt.Errorf("more than %d values", maxValues)
	}
	switch tok {
	case json.Delim('{'):
		return d.object(depth + 1)
	case json.Delim('['):
		return d.array(depth + 1)
	}
	switch tok.(type) {
	case string, json.Number:
		return tok, nil
	}
	return nil, fmt.Errorf("has a %T, which is not allowed", tok)
}

// object reads the rest of an object.
func (d *decoder) object(depth int) (any, error) {
	m := map[string]any{}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := tok.(string)
		if _, twice := m[key]; twice || !ok {
			return nil, fmt.Errorf("has the key %s twice", quote(key))
		}
		if m[key], err = d.value(depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return m, err
}

// array reads the rest of an array.
func (d *decoder) array(depth int) (a []any, err error) {
	for d.More() {
		v, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
	_, err = d.Token()
	return a, err
}

// A checker keeps the first fault. Every read after it returns a zero value,
// so that a check reads like a list of what is allowed.
type checker struct {
	err  error
	next string // what the owner can do about a fault that is found now
}

func (c *checker) fail(path, format string, args ...any) {
	if c.err == nil {
		c.err = &FieldError{Field: path, Reason: fmt.Sprintf(format, args...), Next: c.next}
	}
}

// advise sets what the owner can do until restore is called.
func (c *checker) advise(next string) (restore func()) {
	before := c.next
	c.next = next
	return func() { c.next = before }
}

// An object is a JSON object whose keys are exactly the expected ones.
type object struct {
	c    *checker
	path string
	m    map[string]any
}

// object makes an object of v. Keys are required, or optional with "?".
func (c *checker) object(path string, v any, keys ...string) object {
	o := object{c: c, path: path}
	m, ok := v.(map[string]any)
	if !ok {
		c.fail(path, "is not an object")
		return o
	}
	known := map[string]bool{}
	for _, k := range keys {
		name, optional := strings.CutSuffix(k, "?")
		known[name] = true
		if _, have := m[name]; !have && !optional {
			c.fail(o.at(name), "is missing")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !known[k] {
			c.fail(o.at(k), "is not allowed")
		}
	}
	o.m = m
	return o
}

func (o object) at(key string) string { return join(o.path, key) }

// object returns the object under key.
func (o object) object(key string, keys ...string) object {
	return o.c.object(o.at(key), o.m[key], keys...)
}

// only returns the single entry of an object whose keys are numbers from 0 to
// 31, such as keyslots, with its number.
func (o object) only(key string) (id int, path string, v any) {
	m, _ := o.m[key].(map[string]any)
	if len(m) != 1 {
		o.c.fail(o.at(key), "has %d entries, not one", len(m))
		return 0, o.at(key), nil
	}
	k := slices.Collect(maps.Keys(m))[0]
	id, err := strconv.Atoi(k)
	if err != nil || id < 0 || id > 31 || strconv.Itoa(id) != k {
		o.c.fail(o.at(key), "%s is not a number from 0 to 31", quote(k))
		return 0, o.at(key), nil
	}
	return id, join(o.at(key), k), m[k]
}

// text returns a string that is one of those allowed.
func (o object) text(key string, allowed ...string) string {
	s, ok := o.m[key].(string)
	if !ok || !slices.Contains(allowed, s) {
		o.c.fail(o.at(key), "%s is not %s", show(o.m[key]), strings.Join(allowed, " or "))
		return ""
	}
	return s
}

// number returns a JSON number from lo to hi.
func (o object) number(key string, lo, hi uint64) uint64 {
	n, ok := o.m[key].(json.Number)
	return o.between(key, string(n), ok, lo, hi)
}

// size returns a number of bytes, which LUKS2 writes as a decimal string.
func (o object) size(key string, lo, hi uint64) uint64 {
	s, ok := o.m[key].(string)
	return o.between(key, s, ok, lo, hi)
}

func (o object) between(key, s string, ok bool, lo, hi uint64) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if !ok || err != nil || strconv.FormatUint(n, 10) != s {
		o.c.fail(o.at(key), "%s is not a whole number", show(o.m[key]))
		return 0
	}
	if n < lo || n > hi {
		o.c.fail(o.at(key), "%d is not from %d to %d", n, lo, hi)
		return 0
	}
	return n
}

// base64 returns the bytes of a canonical base64 text whose length is one of
// those from lo to hi.
func (o object) base64(key string, lo, hi int) []byte {
	s, ok := o.m[key].(string)
	b, err := base64.StdEncoding.DecodeString(s)
	if !ok || err != nil || len(b) < lo || len(b) > hi || base64.StdEncoding.EncodeToString(b) != s {
		o.c.fail(o.at(key), "is not a base64 text of %d to %d bytes", lo, hi)
		return nil
	}
	return b
}

// refersTo checks for an array of exactly one string, the number id.
func (o object) refersTo(key string, id int) {
	a, _ := o.m[key].([]any)
	if len(a) != 1 || a[0] != strconv.Itoa(id) {
		o.c.fail(o.at(key), "does not name %d and nothing else", id)
	}
}

func join(path, key string) string {
	if !plain(key) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// show renders a value for a message: text that comes from outside is printed
// only short and quoted.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case json.Number:
		return quote(string(v))
	}
	return "the value"
}

func quote(s string) string {
	if len(s) > 40 {
		s = s[:40]
	}
	return strconv.QuoteToASCII(s)
}

func plain(s string) bool {
	return len(s) > 0 && len(s) <= 40 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}
