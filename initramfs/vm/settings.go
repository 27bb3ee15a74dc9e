package vm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"cocoroot/initramfs/files"
)

// maxSettings bounds a file of settings, in bytes.
const maxSettings = 64 << 10

// Setting is one key of a file of settings. Each is an option of cocoroot create
// by its name, which knows what its values may be.
type Setting struct {
	Key    string
	Values []string // as the option takes them; more than one are of an array or a table
	Many   bool     // it is an array or a table
	Line   int      // from 1
}

// ReadSettings reads a file of settings: TOML, with texts, numbers, booleans and
// arrays of them. In a table, NAME = "VALUE" is NAME=VALUE of the option that is
// called as the table is. The file is the owner's own.
func ReadSettings(path string) ([]Setting, error) {
	b, err := files.Read(path, maxSettings)
	if err != nil {
		return nil, err
	}
	// Repeated keys are found by the decoder, lines and order by the parser.
	var all map[string]any
	if err := toml.Unmarshal(b, &all); err != nil {
		line := 0
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ = e.Position()
		}
		return nil, fmt.Errorf("cannot use %s, line %d: %w", path, line, err)
	}
	var p unstable.Parser
	p.Reset(b)
	var settings []Setting
	table := -1 // of the settings
	for p.NextExpression() {
		n := p.Expression()
		key, at := name(n)
		s := Setting{Key: key, Line: 1 + bytes.Count(b[:at], []byte("\n"))}
		fail := func(what string) error {
			return fmt.Errorf("cannot use %s, line %d: %s: %s", path, s.Line, s.Key, what)
		}
		if n.Kind == unstable.Table {
			s.Many = true
			table = len(settings)
			settings = append(settings, s)
			continue
		}
		if n.Kind != unstable.KeyValue {
			return nil, fail("there are no arrays of tables")
		}
		if s.Values, s.Many, err = values(n.Value()); err != nil {
			return nil, fail(err.Error())
		}
		if table < 0 {
			settings = append(settings, s)
			continue
		}
		if s.Many {
			return nil, fail("it takes one value")
		}
		t := &settings[table]
		t.Values = append(t.Values, s.Key+"="+s.Values[0])
	}
	return settings, p.Error()
}

// name returns the key of an expression, with dots between its parts, and where it
// begins.
func name(n *unstable.Node) (key string, at uint32) {
	for parts := n.Key(); parts.Next(); {
		part := parts.Node()
		if key != "" {
			key += "."
		} else {
			at = part.Raw.Offset
		}
		key += string(part.Data)
	}
	return key, at
}

// values returns the values of a key as texts.
func values(n *unstable.Node) (all []string, many bool, err error) {
	switch n.Kind {
	case unstable.String, unstable.Integer, unstable.Bool:
		return []string{string(n.Data)}, false, nil
	case unstable.Array:
		for items := n.Children(); items.Next(); {
			one, many, err := values(items.Node())
			if err != nil || many {
				return nil, true, errValue
			}
			all = append(all, one...)
		}
		return all, true, nil
	}
	return nil, false, errValue
}

var errValue = errors.New("a value is a text, a number, true, false, or an array of these")
