package luks2_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/luks2/internal/layout"
)

// seedTexts returns JSON texts that Check accepts, and those of the hostile
// headers.
func seedTexts(t testing.TB) (good, bad []string) {
	text := jsonText(header(t, region(t, options())))
	o := options()
	o.KDF = format.Argon2id(4, 64, 2)
	argon := jsonText(header(t, region(t, o)))
	good = []string{text, argon, strings.Replace(text, `"dynamic"`, `"8192"`, 1), strings.ReplaceAll(text, ",", " , ")}
	for _, h := range corpus(t) {
		if b, ok := h.text(text); ok {
			bad = append(bad, b)
		}
	}
	return good, bad
}

// FuzzCheckJSON puts a text into a header with a right checksum. What Check
// accepts, a reader with encoding/json's habits (keys in any case, the last
// of two wins, unknown ones ignored) has to understand in the same way.
func FuzzCheckJSON(f *testing.F) {
	good, bad := seedTexts(f)
	for _, text := range append(good, bad...) {
		f.Add(text, uint64(deviceSize))
	}
	h := header(f, region(f, options()))
	f.Fuzz(func(t *testing.T, text string, size uint64) {
		if len(text) > len(h)-luks2.BinaryHeaderSize {
			return
		}
		info, err := luks2.Check(withJSON(h, text), size, luks2.Limits{})
		if err != nil {
			var field *luks2.FieldError
			if !errors.As(err, &field) || field.Field == "" || len(err.Error()) > 2000 {
				t.Errorf("Check(%q) = %v; want a FieldError", text, err)
			}
			return
		}
		if end := info.Offset + info.Size; end < info.Offset || end > size || info.Size == 0 || info.Offset < 2*layout.MinSize+layout.Stripes*luks2.KeySize {
			t.Errorf("Check(%q, %d) = %+v: the segment does not fit", text, size, info)
		}
		loosely(t, text, info)
	})
}

// loosely reads text as the unlocking library does and compares.
func loosely(t *testing.T, text string, info luks2.Info) {
	var m struct {
		Keyslots map[int]struct {
			KeySize uint `json:"key_size"`
			Area    struct {
				Encryption   string
				Offset, Size json.Number
			}
			Kdf struct {
				Type                           string
				Iterations, Time, Memory, Cpus uint64
			}
		}
		Tokens   map[int]json.RawMessage
		Segments map[int]struct {
			Type, Size, Encryption string
			Offset                 json.Number
			IvTweak                json.Number `json:"iv_tweak"`
			SectorSize             uint64      `json:"sector_size"`
			Flags                  []string
		}
		Digests map[int]struct {
			Digest             string
			Keyslots, Segments []json.Number
		}
		Config struct{ Flags, Requirements []string }
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("Check accepts %q; encoding/json does not: %v", text, err)
	}
	slot, segment := m.Keyslots[info.Keyslot], m.Segments[info.Segment]
	kdf := luks2.KDF{Type: slot.Kdf.Type, Iterations: uint32(slot.Kdf.Iterations), Time: uint32(slot.Kdf.Time), MemoryKiB: uint32(slot.Kdf.Memory), CPUs: uint8(slot.Kdf.Cpus)}
	switch {
	case len(m.Keyslots) != 1 || len(m.Segments) != 1 || len(m.Digests) != 1 || len(m.Tokens) != 0,
		len(m.Config.Flags)+len(m.Config.Requirements)+len(segment.Flags) != 0,
		slot.KeySize != luks2.KeySize || slot.Area.Encryption != luks2.Encryption || kdf != info.KDF,
		segment.Type != "crypt" || segment.Encryption != luks2.Encryption || segment.IvTweak != "0" || segment.SectorSize != info.SectorSize,
		segment.Offset.String() != strconv.FormatUint(info.Offset, 10),
		segment.Size != "dynamic" && segment.Size != strconv.FormatUint(info.Size, 10):
		t.Errorf("Check(%q) = %+v; encoding/json reads %+v", text, info, m)
	}
	for _, d := range m.Digests {
		if len(d.Digest) < 44 || len(d.Keyslots) != 1 || d.Keyslots[0].String() != strconv.Itoa(info.Keyslot) {
			t.Errorf("Check(%q) accepts the digest %+v", text, d)
		}
	}
}

// headerSeeds are the first sectors of the headers whose binary part is
// hostile, and a good one at the start.
func headerSeeds(t testing.TB) [][]byte {
	good := region(t, options())
	seeds := [][]byte{good[:layout.OffPadding2]}
	for _, h := range corpus(t) {
		if _, ok := h.text(""); ok {
			continue
		}
		image, err := h.image(good)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, image[:min(len(image), layout.OffPadding2)])
	}
	return seeds
}

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// FuzzCheckHeader is about the binary header: its first 512 bytes stand before
// a good JSON text, and the checksum is made right where repair says so.
func FuzzCheckHeader(f *testing.F) {
	for _, seed := range headerSeeds(f) {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	good := header(f, region(f, options()))
	f.Fuzz(func(t *testing.T, first []byte, repair bool) {
		h := bytes.Clone(good)
		copy(h, first)
		if repair {
			h = resum(h)
		}
		info, err := luks2.Check(h, deviceSize, luks2.Limits{})
		if err == nil && (info.HeaderSize != len(h) || !uuid.MatchString(info.UUID) || info.Offset+info.Size > deviceSize) {
			t.Errorf("Check = %+v for %d bytes", info, len(h))
		}
		if n, err := luks2.HeaderSize(first); err == nil && (n < layout.MinSize || n > layout.MaxSize || len(first) < luks2.BinaryHeaderSize) {
			t.Errorf("HeaderSize(%d bytes) = %d", len(first), n)
		}
	})
}

// TestFuzzCheckHeaderSeeds shows that one seed is accepted, and that the
// others are refused in each part of the binary header.
func TestFuzzCheckHeaderSeeds(t *testing.T) {
	good := header(t, region(t, options()))
	seen := map[string]int{}
	for _, seed := range headerSeeds(t) {
		h := bytes.Clone(good)
		copy(h, seed)
		_, err := luks2.Check(resum(h), deviceSize, luks2.Limits{})
		seen[named(err)]++
	}
	for _, want := range []string{"<nil>", "ErrNotLUKS2", "ErrSecondary", "ErrLUKS1", "header: size", "header: offset", "header: checksum algorithm", "header: padding", "header: UUID"} {
		if seen[want] == 0 {
			t.Errorf("no seed ends in %s: %v", want, seen)
		}
	}
}

// TestFuzzCheckJSONSeeds shows that the seeds get past the checksum and into the JSON.
func TestFuzzCheckJSONSeeds(t *testing.T) {
	h := header(t, region(t, options()))
	good, bad := seedTexts(t)
	if len(good) < 4 || len(bad) < 100 {
		t.Fatalf("%d good and %d bad seeds; want at least 4 and 100", len(good), len(bad))
	}
	for _, text := range good {
		if _, err := check(h, text); err != nil {
			t.Errorf("seed %q: Check = %v", text, err)
		}
	}
	inside := 0
	for _, text := range bad {
		_, err := check(h, text)
		var field *luks2.FieldError
		if !errors.As(err, &field) {
			t.Errorf("seed %q: Check = %v; want a FieldError", text, err)
		} else if !strings.HasPrefix(field.Field, "header:") {
			inside++
		}
	}
	if inside < 80 {
		t.Errorf("%d of the seeds are refused for a field of the JSON; want at least 80", inside)
	}
}
