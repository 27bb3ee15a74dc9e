package strictjson

import (
	"errors"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	type pair struct{ A, B int }
	for _, tt := range []struct {
		text string
		ok   bool
		want error // nil: any
	}{
		{`{"a": 1, "b": 2}`, true, nil},
		{` {"a": 1, "b": 2} ` + "\n", true, nil},
		{`{"a": 1, "b": 2, "c": 3}`, false, nil},
		{`{"a": 1, "b": 2`, false, nil},
		{`{"a": "1"}`, false, nil},
		{``, false, nil},
		{`{"a": 1, "b": 2}{}`, false, errTrailer},
		{`{"a": 1, "b": 2}}`, false, errTrailer},
		{`{"a": 1, "b": 2}               `, false, ErrTooLong},
	} {
		var v pair
		err := Decode([]byte(tt.text), 30, &v)
		if (err == nil) != tt.ok || tt.want != nil && !errors.Is(err, tt.want) || tt.ok && v != (pair{1, 2}) {
			t.Errorf("Decode(%q) = %v, %v; want %v, %v", tt.text, v, err, tt.ok, tt.want)
		}
	}
}

func TestDecodeKind(t *testing.T) {
	for text, want := range map[string]error{
		`{"kind":"x","version":1}`: nil,
		`{"version": 1}`:           nil,
		`{"kind": "y", "more": 1}`: ErrKind,
		`{"version": 1}{}`:         errTrailer,
	} {
		var v struct {
			Kind    string
			Version int
		}
		if err := DecodeKind([]byte(text), 30, &v, "x", ""); !errors.Is(err, want) {
			t.Errorf("DecodeKind(%q) = %v; want %v", text, err, want)
		}
	}
	var v struct{ Version int }
	if err := DecodeKind([]byte(`{"version": 2}`), 30, &v, ""); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("DecodeKind of version 2 = %v; want an error about it", err)
	}
	if err := DecodeKind([]byte(`{}`), 30, &v, "x"); !errors.Is(err, ErrKind) {
		t.Errorf("DecodeKind without a kind = %v; want ErrKind", err)
	}
}
