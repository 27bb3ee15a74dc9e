package luks2_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/anatol/luks.go"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/internal/layout"
)

// A hostile header is a file in testdata/hostile; the README there has its
// form.
type hostile struct {
	name   string
	fault  string
	source string
	expect string   // an error's name or a FieldError's field
	alone  string   // what luks.go does with it, or empty
	body   []string // changes to the header that Format makes
}

// corpus reads all hostile headers.
func corpus(t testing.TB) []hostile {
	t.Helper()
	paths, err := filepath.Glob("testdata/hostile/*.txt")
	if err != nil || len(paths) < 150 {
		t.Fatalf("%d hostile headers, %v; want at least 150", len(paths), err)
	}
	var all []hostile
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		h, err := parseHostile(strings.TrimSuffix(filepath.Base(path), ".txt"), string(text))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, h)
	}
	return all
}

func parseHostile(name, text string) (hostile, error) {
	h := hostile{name: name}
	head, body, found := strings.Cut(text, "\n\n")
	if !found {
		return h, errors.New("no empty line after the fields")
	}
	for line := range strings.SplitSeq(head, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		field := map[string]*string{"fault": &h.fault, "source": &h.source, "expect": &h.expect, "luks.go": &h.alone}[key]
		if field == nil || *field != "" {
			return h, fmt.Errorf("unknown or repeated field %q", key)
		}
		*field = value
	}
	if h.fault == "" || h.source == "" || h.expect == "" {
		return h, errors.New("fault, source or expect is missing")
	}
	h.body = strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	return h, nil
}

// text returns the JSON text of a header of JSON changes only.
func (h hostile) text(good string) (text string, ok bool) {
	if len(h.body) != 2 || !strings.HasPrefix(h.body[0], "- ") || !strings.HasPrefix(h.body[1], "+ ") {
		return "", false
	}
	return replaced(good, h.body[0][2:], h.body[1][2:]), true
}

// image returns the header region with the fault in it.
func (h hostile) image(region []byte) ([]byte, error) {
	r := bytes.Clone(region)
	if text, ok := h.text(jsonText(r[:layout.MinSize])); ok {
		copy(r, withJSON(r[:layout.MinSize], text))
		return r, nil
	}
	sum := true
	for _, line := range h.body {
		verb, arg, _ := strings.Cut(line, " ")
		switch verb {
		case "header":
			copy(r, region[layout.MinSize:2*layout.MinSize])
		case "json":
			copy(r, withJSON(r[:layout.MinSize], arg))
		case "checksum":
			sum = false
		case "length":
			n, err := strconv.Atoi(arg)
			if err != nil {
				return nil, err
			}
			return r[:n], nil
		case "fill":
			b, err := hex.DecodeString(arg)
			if err != nil {
				return nil, err
			}
			copy(r[luks2.BinaryHeaderSize:layout.MinSize], bytes.ReplaceAll(r[luks2.BinaryHeaderSize:layout.MinSize], []byte{0}, b))
		case "@":
			at, data, _ := strings.Cut(arg, " ")
			n, err := strconv.Atoi(at)
			b, hexErr := hex.DecodeString(data)
			if err != nil || hexErr != nil || len(b) == 0 || n < 0 || n > layout.MinSize-len(b) {
				return nil, fmt.Errorf("bad line %q", line)
			}
			copy(r[n:], b)
		default:
			return nil, fmt.Errorf("bad line %q", line)
		}
	}
	if sum {
		resum(r[:layout.MinSize])
	}
	return r, nil
}

// replaced puts new in place of old; a * in old stands for the shortest
// run of characters that leads to what follows it. Without a place for it,
// text comes back as it is.
func replaced(text, old, new string) string {
	before, after, open := strings.Cut(old, "*")
	start := strings.Index(text, before)
	if start < 0 {
		return text
	}
	end := start + len(before)
	if open {
		n := strings.Index(text[end:], after)
		if n < 0 {
			return text
		}
		end += n + len(after)
	}
	return text[:start] + new + text[end:]
}

// named is what an expect line calls an error.
func named(err error) string {
	var field *luks2.FieldError
	switch {
	case errors.As(err, &field):
		return field.Field
	case errors.Is(err, luks2.ErrNotLUKS2):
		return "ErrNotLUKS2"
	case errors.Is(err, luks2.ErrSecondary):
		return "ErrSecondary"
	case errors.Is(err, luks2.ErrLUKS1):
		return "ErrLUKS1"
	case errors.Is(err, luks2.ErrChecksum):
		return "ErrChecksum"
	}
	return fmt.Sprint(err)
}

func TestHostileHeaders(t *testing.T) {
	good := region(t, options())
	for _, h := range corpus(t) {
		t.Run(h.name, func(t *testing.T) {
			image, err := h.image(good)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(image, good) {
				t.Fatal("the fault changes nothing")
			}
			info, err := luks2.Check(image[:min(len(image), layout.MinSize)], deviceSize, luks2.Limits{})
			if named(err) != h.expect || info != (luks2.Info{}) {
				t.Errorf("%s: Check = %v, %v; want %s", h.fault, info, err, h.expect)
			}
			if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("error %q has more than printable ASCII", err)
			}
		})
	}
}

// Every kind of attack that is known has its header.
func TestHostileHeadersAreComplete(t *testing.T) {
	have := map[string]bool{}
	for _, h := range corpus(t) {
		have[h.name] = true
	}
	for kind, names := range map[string]string{
		"null cipher":          "null-cipher-in-the-segment null-cipher-in-the-keyslot kernel-cipher-name",
		"digest":               "empty-digest short-digest digest-of-luks1 digest-longer-than-its-hash",
		"dm table":             "key-and-device-in-the-cipher",
		"offsets":              "segment-at-0 segment-offset-2-62 segment-behind-the-device area-offset-beyond-63-bits",
		"sizes":                "size-2-62 size-wraps area-size-wraps keyslots-size-wraps",
		"key size":             "key-size-2-28 key-size-2-40 key-size-2-53 area-key-size-2-28",
		"argon2":               "memory-16-gib memory-2-32-plus-32 lanes-beyond-8-bits passes-beyond-32-bits passes-beyond-the-deadline",
		"iterations":           "iterations-2-31 iterations-2-62 digest-iterations-2-31 digest-iterations-2-62",
		"panics of luks.go":    "no-area sector-0 no-sector-size iterations-0 no-lanes no-passes no-nul",
		"JSON":                 "deep-nesting many-values key-twice key-twice-by-escape key-in-two-cases long-s-folds-to-s",
		"copies of the header": "second-header-first headers-swapped-by-magic",
		"what is ignored":      "one-token requirements requirements-as-a-list integrity reencrypt-keyslot segment-flags allow-discards",
		"second keyslot":       "second-keyslot two-keyslots",
		"other formats":        "luks1 version-3 no-luks-at-all",
	} {
		for name := range strings.FieldsSeq(names) {
			if !have[name] {
				t.Errorf("%s: there is no %s.txt", kind, name)
			}
		}
	}
}

// What the library that unlocks does where nobody checks the header first.
func TestHostileHeadersAlone(t *testing.T) {
	good := region(t, options())
	dangers := 0
	for _, h := range corpus(t) {
		if h.alone == "" {
			continue
		}
		dangers++
		image, err := h.image(good)
		if err != nil {
			t.Fatal(err)
		}
		if got := alone(file(t, h.name, image, deviceSize)); got != h.alone {
			t.Errorf("%s: luks.go: %s; the file says: %s", h.name, got, h.alone)
		}
	}
	if dangers < 10 {
		t.Errorf("%d headers say what luks.go does; want at least 10", dangers)
	}
}

// alone opens an image as nobody should, without Check.
func alone(path string) (outcome string) {
	defer func() {
		if recover() != nil {
			outcome = "panics"
		}
	}()
	dev, err := luks.Open(path)
	if err != nil {
		return err.Error()
	}
	defer dev.Close()
	if _, err := dev.UnsealVolume(0, []byte("wrong")); err == nil {
		return "opens with any key"
	}
	if _, err := dev.UnsealVolume(0, passphrase); err != nil {
		return err.Error()
	}
	return "opens"
}
