package luks2_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cocoroot/unlock/luks2"
	"cocoroot/unlock/luks2/format"
	"cocoroot/unlock/luks2/internal/layout"
)

// check is Check of a header with this JSON text and a right checksum.
func check(h []byte, text string) (luks2.Info, error) {
	return luks2.Check(withJSON(h, text), deviceSize, luks2.Limits{})
}

func TestCheckAccepts(t *testing.T) {
	h := header(t, region(t, options()))
	text := jsonText(h)
	argon := `"kdf":{"type":"argon2id","time":4,"memory":1048576,"cpus":4,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="}`
	kdf := text[strings.Index(text, `"kdf":`):strings.Index(text, `}},"tokens"`)]
	digest := text[strings.Index(text, `"digest":`):strings.Index(text, `}},"config"`)]
	tests := map[string]struct {
		text  string
		wants func(luks2.Info) bool
	}{
		"as formatted":  {text, func(i luks2.Info) bool { return i.Keyslot == 0 && i.Segment == 0 }},
		"white space":   {strings.ReplaceAll(text, ",", " ,\n\t"), func(i luks2.Info) bool { return i.Offset == 1<<20 }},
		"keyslot 31":    {strings.Replace(strings.Replace(text, `{"0":{"type":"luks2"`, `{"31":{"type":"luks2"`, 1), `"keyslots":["0"]`, `"keyslots":["31"]`, 1), func(i luks2.Info) bool { return i.Keyslot == 31 }},
		"segment 1":     {strings.Replace(strings.Replace(text, `{"0":{"type":"crypt"`, `{"1":{"type":"crypt"`, 1), `"segments":["0"]`, `"segments":["1"]`, 1), func(i luks2.Info) bool { return i.Segment == 1 }},
		"digest 7":      {strings.Replace(text, `{"0":{"type":"pbkdf2"`, `{"7":{"type":"pbkdf2"`, 1), func(i luks2.Info) bool { return true }},
		"priority 1":    {strings.Replace(text, `"af":`, `"priority":1,"af":`, 1), func(i luks2.Info) bool { return true }},
		"priority 2":    {strings.Replace(text, `"af":`, `"priority":2,"af":`, 1), func(i luks2.Info) bool { return true }},
		"fixed size":    {strings.Replace(text, `"dynamic"`, `"8192"`, 1), func(i luks2.Info) bool { return i.Size == 8192 }},
		"whole size":    {strings.Replace(text, `"dynamic"`, `"66060288"`, 1), func(i luks2.Info) bool { return i.Size == 63<<20 }},
		"512":           {strings.Replace(text, `"sector_size":4096`, `"sector_size":512`, 1), func(i luks2.Info) bool { return i.SectorSize == 512 }},
		"2048":          {strings.Replace(text, `"sector_size":4096`, `"sector_size":2048`, 1), func(i luks2.Info) bool { return i.SectorSize == 2048 }},
		"later segment": {strings.Replace(text, `"1048576","size":"dyn`, `"2097152","size":"dyn`, 1), func(i luks2.Info) bool { return i.Offset == 2<<20 && i.Size == 62<<20 }},
		"later keyslot": {strings.Replace(text, `"32768"`, `"790528"`, 1), func(i luks2.Info) bool { return true }},
		"argon2id":      {strings.Replace(text, kdf, argon, 1), func(i luks2.Info) bool { return i.KDF == format.Argon2id(4, 1<<20, 4) }},
		"argon2i":       {strings.Replace(text, kdf, strings.Replace(argon, "argon2id", "argon2i", 1), 1), func(i luks2.Info) bool { return i.KDF.Type == "argon2i" }},
		"sha512":        {strings.Replace(text, `"pbkdf2","hash":"sha256"`, `"pbkdf2","hash":"sha512"`, 1), func(i luks2.Info) bool { return true }},
		"sha512 digest": {strings.Replace(strings.Replace(text, `["0"],"hash":"sha256"`, `["0"],"hash":"sha512"`, 1), digest, `"digest":"`+base64.StdEncoding.EncodeToString(make([]byte, 64))+`"`, 1), func(i luks2.Info) bool { return true }},
	}
	for name, test := range tests {
		if name != "as formatted" && test.text == text {
			t.Errorf("%s: the test changes nothing", name)
		}
		info, err := check(h, test.text)
		if err != nil || !test.wants(info) {
			t.Errorf("%s: Check = %v, %v", name, info, err)
		}
	}
}

func TestCheckWantsTheWholeHeader(t *testing.T) {
	good := header(t, region(t, options()))
	if _, err := luks2.Check(good[:8192], deviceSize, luks2.Limits{}); err == nil {
		t.Error("Check(half of the header) succeeded; want an error")
	}
	if _, err := luks2.Check(append(bytes.Clone(good), 0), deviceSize, luks2.Limits{}); err == nil {
		t.Error("Check(more than the header) succeeded; want an error")
	}
}

func TestCheckBoundsTheText(t *testing.T) {
	const maxText = 64 << 10
	h := header(t, region(t, options()))
	big := make([]byte, 4<<20)
	copy(big, h[:luks2.BinaryHeaderSize])
	binary.BigEndian.PutUint64(big[layout.OffSize:], uint64(len(big)))
	text := strings.Replace(jsonText(h), `"12288"`, `"4190208"`, 1)
	for _, spaces := range []int{0, maxText - len(text), maxText - len(text) + 1} {
		_, err := check(big, text+strings.Repeat(" ", spaces))
		var field *luks2.FieldError
		tooLong := errors.As(err, &field) && field.Field == "header: JSON area"
		if want := len(text)+spaces > maxText; tooLong != want {
			t.Errorf("%d bytes of JSON: Check = %v; too long: want %v", len(text)+spaces, err, want)
		}
	}
}

func TestCheckDeviceSize(t *testing.T) {
	h := header(t, region(t, options()))
	for _, size := range []uint64{0, 4096, 32768, 1<<20 - 1, 1 << 20, 1<<20 + 4095, 1<<20 + 4097, 1<<64 - 1} {
		if info, err := luks2.Check(h, size, luks2.Limits{}); err == nil {
			t.Errorf("Check on a device of %d bytes = %v; want an error", size, info)
		}
	}
	for _, size := range []uint64{1<<20 + 4096, 1<<64 - 4096} {
		if info, err := luks2.Check(h, size, luks2.Limits{}); err != nil || info.Size != size-1<<20 {
			t.Errorf("Check on a device of %d bytes = %v, %v", size, info, err)
		}
	}
}

// The bounds of an unlock's cost, each met exactly and passed by one.
func TestCosts(t *testing.T) {
	h := header(t, region(t, options()))
	argon := func(time, memory, cpus uint64) string {
		return mustReplace(t, jsonText(h), `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`,
			fmt.Sprintf(`"type":"argon2id","time":%d,"memory":%d,"cpus":%d,"salt"`, time, memory, cpus))
	}
	pbkdf2 := func(n uint64) string {
		return mustReplace(t, jsonText(h), `"pbkdf2","hash":"sha256","iterations":1000`, fmt.Sprintf(`"pbkdf2","hash":"sha256","iterations":%d`, n))
	}
	digest := func(n uint64) string {
		return mustReplace(t, jsonText(h), `["0"],"hash":"sha256","iterations":1000`, fmt.Sprintf(`["0"],"hash":"sha256","iterations":%d`, n))
	}
	const slot = "keyslots.0.kdf."
	for _, test := range []struct {
		name, text, field string
		ram               uint64
	}{
		{"what cryptsetup chooses", argon(4, 1<<20, 4), "", 0},
		{"what it chooses on a fast machine", argon(12, 1<<20, 4), "", 4 << 30},
		{"all of the memory", argon(16, 1<<20, 1), "", 2 << 30},
		{"memory", argon(1, 1<<20+1, 1), slot + "memory", 0},
		{"one pass too many", argon(17, 1<<20, 1), slot + "time", 0},
		{"many cheap passes", argon(4096, 4096, 1), "", 0},
		{"too many cheap passes", argon(4096, 4097, 1), slot + "time", 0},
		{"passes", argon(4097, 32, 4), slot + "time", 0},
		{"lanes", argon(4, 64, 5), slot + "cpus", 0},
		{"half of the RAM", argon(4, 1<<19, 4), "", 1 << 30},
		{"more than half of the RAM", argon(4, 1<<19+1, 4), slot + "memory", 1 << 30},
		{"no RAM to speak of", argon(4, 64, 4), slot + "memory", 1},
		{"iterations", pbkdf2(16e6), "", 1},
		{"one iteration too many", pbkdf2(16e6 + 1), slot + "iterations", 0},
		{"digest", digest(2e6), "", 1},
		{"digest too expensive", digest(2e6 + 1), "digests.0.iterations", 0},
	} {
		_, err := luks2.Check(withJSON(h, test.text), deviceSize, luks2.Limits{RAM: test.ram})
		var field *luks2.FieldError
		if test.field == "" && err != nil || test.field != "" && (!errors.As(err, &field) || field.Field != test.field || field.Next == "") {
			t.Errorf("%s: Check = %v; want a FieldError of %q", test.name, err, test.field)
		}
	}
}
