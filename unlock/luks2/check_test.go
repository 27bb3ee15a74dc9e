package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// check is Check of a header with this JSON text and a right checksum.
func check(h []byte, text string) (Info, error) {
	return Check(withJSON(h, text), deviceSize, Limits{})
}

func TestCheckAccepts(t *testing.T) {
	h := header(t, region(t, options()))
	text := jsonText(h)
	argon := `"kdf":{"type":"argon2id","time":4,"memory":1048576,"cpus":4,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="}`
	kdf := text[strings.Index(text, `"kdf":`):strings.Index(text, `}},"tokens"`)]
	digest := text[strings.Index(text, `"digest":`):strings.Index(text, `}},"config"`)]
	tests := map[string]struct {
		text  string
		wants func(Info) bool
	}{
		"as formatted":   {text, func(i Info) bool { return i.Keyslot == 0 && i.Segment == 0 }},
		"white space":    {strings.ReplaceAll(text, ",", " ,\n\t"), func(i Info) bool { return i.Offset == 1<<20 }},
		"keyslot 31":     {strings.Replace(strings.Replace(text, `{"0":{"type":"luks2"`, `{"31":{"type":"luks2"`, 1), `"keyslots":["0"]`, `"keyslots":["31"]`, 1), func(i Info) bool { return i.Keyslot == 31 }},
		"segment 1":      {strings.Replace(strings.Replace(text, `{"0":{"type":"crypt"`, `{"1":{"type":"crypt"`, 1), `"segments":["0"]`, `"segments":["1"]`, 1), func(i Info) bool { return i.Segment == 1 }},
		"digest 7":       {strings.Replace(text, `{"0":{"type":"pbkdf2"`, `{"7":{"type":"pbkdf2"`, 1), func(i Info) bool { return true }},
		"priority 1":     {strings.Replace(text, `"af":`, `"priority":1,"af":`, 1), func(i Info) bool { return true }},
		"priority 2":     {strings.Replace(text, `"af":`, `"priority":2,"af":`, 1), func(i Info) bool { return true }},
		"fixed size":     {strings.Replace(text, `"dynamic"`, `"8192"`, 1), func(i Info) bool { return i.Size == 8192 }},
		"whole size":     {strings.Replace(text, `"dynamic"`, `"66060288"`, 1), func(i Info) bool { return i.Size == 63<<20 }},
		"512":            {strings.Replace(text, `"sector_size":4096`, `"sector_size":512`, 1), func(i Info) bool { return i.SectorSize == 512 }},
		"2048":           {strings.Replace(text, `"sector_size":4096`, `"sector_size":2048`, 1), func(i Info) bool { return i.SectorSize == 2048 }},
		"later segment":  {strings.Replace(text, `"1048576","size":"dyn`, `"2097152","size":"dyn`, 1), func(i Info) bool { return i.Offset == 2<<20 && i.Size == 62<<20 }},
		"later keyslot":  {strings.Replace(text, `"32768"`, `"790528"`, 1), func(i Info) bool { return true }},
		"argon2id":       {strings.Replace(text, kdf, argon, 1), func(i Info) bool { return i.KDF == Argon2id(4, 1<<20, 4) }},
		"argon2i":        {strings.Replace(text, kdf, strings.Replace(argon, "argon2id", "argon2i", 1), 1), func(i Info) bool { return i.KDF.Type == "argon2i" }},
		"sha512":         {strings.Replace(text, `"pbkdf2","hash":"sha256"`, `"pbkdf2","hash":"sha512"`, 1), func(i Info) bool { return true }},
		"sha512 digest":  {strings.Replace(strings.Replace(text, `["0"],"hash":"sha256"`, `["0"],"hash":"sha512"`, 1), digest, `"digest":"`+base64.StdEncoding.EncodeToString(make([]byte, 64))+`"`, 1), func(i Info) bool { return true }},
		"LUKS1's digest": {strings.Replace(text, digest, `"digest":"`+base64.StdEncoding.EncodeToString(make([]byte, 20))+`"`, 1), func(i Info) bool { return true }},
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

func TestCheckRefuses(t *testing.T) {
	h := header(t, region(t, options()))
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			text := f.put(jsonText(h))
			if text == jsonText(h) {
				t.Fatalf("the fault changes nothing: no %q in the header's JSON", f.old)
			}
			info, err := check(h, text)
			var field *FieldError
			if !errors.As(err, &field) || field.Field != f.field || info != (Info{}) {
				t.Errorf("Check = %v, %v; want a FieldError of %s", info, err, f.field)
			}
			if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("error %q has more than printable ASCII", err)
			}
		})
	}
}

func TestCheckRefusesBinaryHeader(t *testing.T) {
	good := header(t, region(t, options()))
	tests := []struct {
		name   string
		change func(h []byte) []byte
		want   error  // or
		field  string // of a FieldError
	}{
		{"empty", func(h []byte) []byte { return nil }, ErrNotLUKS2, ""},
		{"short", func(h []byte) []byte { return h[:4095] }, ErrNotLUKS2, ""},
		{"magic", func(h []byte) []byte { h[0] = 'l'; return h }, ErrNotLUKS2, ""},
		{"second header", func(h []byte) []byte { copy(h, secondaryMagic); return resum(h) }, ErrNotLUKS2, ""},
		{"LUKS1", func(h []byte) []byte { h[7] = 1; return h }, ErrLUKS1, ""},
		{"version 3", func(h []byte) []byte { h[7] = 3; return resum(h) }, ErrNotLUKS2, ""},
		{"size 12 KiB", func(h []byte) []byte { binary.BigEndian.PutUint64(h[8:], 12<<10); return resum(h) }, nil, "header: size"},
		{"size 20 KiB", func(h []byte) []byte { binary.BigEndian.PutUint64(h[8:], 20<<10); return resum(h) }, nil, "header: size"},
		{"size 8 MiB", func(h []byte) []byte { binary.BigEndian.PutUint64(h[8:], 8<<20); return resum(h) }, nil, "header: size"},
		{"size beyond 32 bits", func(h []byte) []byte { h[11] = 1; return resum(h) }, nil, "header: size"},
		{"offset", func(h []byte) []byte { h[offOffset+6] = 0x40; return resum(h) }, nil, "header: offset"},
		{"sha1", func(h []byte) []byte { copy(h[offAlgorithm:], "sha1\x00\x00"); return resum(h) }, nil, "header: checksum algorithm"},
		{"sha256 and more", func(h []byte) []byte { h[offAlgorithm+7] = 'x'; return resum(h) }, nil, "header: checksum algorithm"},
		{"padding", func(h []byte) []byte { h[offPadding] = 1; return resum(h) }, nil, "header: padding"},
		{"long checksum", func(h []byte) []byte { h[offChecksum+32] = 1; return h }, nil, "header: padding"},
		{"padding of the sector", func(h []byte) []byte { h[4095] = 1; return resum(h) }, nil, "header: padding"},
		{"checksum", func(h []byte) []byte { h[offChecksum] ^= 1; return h }, ErrChecksum, ""},
		{"salt", func(h []byte) []byte { h[offSalt] ^= 1; return h }, ErrChecksum, ""},
		{"JSON", func(h []byte) []byte { h[5000] ^= 1; return h }, ErrChecksum, ""},
		{"last byte", func(h []byte) []byte { h[len(h)-1] = 1; return h }, ErrChecksum, ""},
		{"no UUID", func(h []byte) []byte { clear(h[offUUID:offSubsystem]); return resum(h) }, nil, "header: UUID"},
		{"long UUID", func(h []byte) []byte { h[offUUID+36] = 'a'; return resum(h) }, nil, "header: UUID"},
		{"bytes behind the UUID", func(h []byte) []byte { h[offUUID+38] = 'a'; return resum(h) }, nil, "header: UUID"},
		{"UUID with a slash", func(h []byte) []byte { h[offUUID] = '/'; return resum(h) }, nil, "header: UUID"},
		{"UUID without dashes", func(h []byte) []byte { h[offUUID+8] = '0'; return resum(h) }, nil, "header: UUID"},
		{"text without end", func(h []byte) []byte {
			for i := BinaryHeaderSize; i < len(h); i++ {
				if h[i] == 0 {
					h[i] = ' '
				}
			}
			return resum(h)
		}, nil, "header: JSON area"},
		{"text behind the text", func(h []byte) []byte { h[len(h)-1] = '}'; return resum(h) }, nil, "header: JSON area"},
		{"no text", func(h []byte) []byte { clear(h[BinaryHeaderSize:]); return resum(h) }, nil, "header: JSON area"},
		{"list", func(h []byte) []byte { return withJSON(h, "[]") }, nil, "header: JSON area"},
		{"string", func(h []byte) []byte { return withJSON(h, `"keyslots"`) }, nil, "header: JSON area"},
		{"empty object", func(h []byte) []byte { return withJSON(h, "{}") }, nil, "keyslots"},
	}
	for _, test := range tests {
		_, err := Check(test.change(bytes.Clone(good)), deviceSize, Limits{})
		var field *FieldError
		switch {
		case test.want != nil && !errors.Is(err, test.want):
			t.Errorf("%s: Check = %v; want %v", test.name, err, test.want)
		case test.want == nil && (!errors.As(err, &field) || field.Field != test.field):
			t.Errorf("%s: Check = %v; want a FieldError of %s", test.name, err, test.field)
		}
	}
	if _, err := Check(good[:8192], deviceSize, Limits{}); err == nil {
		t.Error("Check(half of the header) succeeded; want an error")
	}
	if _, err := Check(append(bytes.Clone(good), 0), deviceSize, Limits{}); err == nil {
		t.Error("Check(more than the header) succeeded; want an error")
	}
}

func TestCheckBoundsTheText(t *testing.T) {
	h := header(t, region(t, options()))
	big := make([]byte, 4<<20)
	copy(big, h[:BinaryHeaderSize])
	binary.BigEndian.PutUint64(big[offSize:], uint64(len(big)))
	text := strings.Replace(jsonText(h), `"12288"`, `"4190208"`, 1)
	for _, spaces := range []int{0, maxText - len(text), maxText - len(text) + 1} {
		_, err := check(big, text+strings.Repeat(" ", spaces))
		var field *FieldError
		tooLong := errors.As(err, &field) && field.Field == "header: JSON area"
		if want := len(text)+spaces > maxText; tooLong != want {
			t.Errorf("%d bytes of JSON: Check = %v; too long: want %v", len(text)+spaces, err, want)
		}
	}
}

func TestCheckDeviceSize(t *testing.T) {
	h := header(t, region(t, options()))
	for _, size := range []uint64{0, 4096, 32768, 1<<20 - 1, 1 << 20, 1<<20 + 4095, 1<<20 + 4097, 1<<64 - 1} {
		if info, err := Check(h, size, Limits{}); err == nil {
			t.Errorf("Check on a device of %d bytes = %v; want an error", size, info)
		}
	}
	for _, size := range []uint64{1<<20 + 4096, 1<<64 - 4096} {
		if info, err := Check(h, size, Limits{}); err != nil || info.Size != size-1<<20 {
			t.Errorf("Check on a device of %d bytes = %v, %v", size, info, err)
		}
	}
}

func TestLimits(t *testing.T) {
	h := header(t, region(t, options()))
	argon := mustReplace(t, jsonText(h), `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, `"type":"argon2id","time":5,"memory":100,"cpus":2,"salt"`)
	for _, test := range []struct {
		name, text, field string
		limits            Limits
	}{
		{"memory", argon, "keyslots.0.kdf.memory", Limits{MaxMemoryKiB: 99}},
		{"time", argon, "keyslots.0.kdf.time", Limits{MaxTime: 4}},
		{"cpus", argon, "keyslots.0.kdf.cpus", Limits{MaxCPUs: 1}},
		{"memory exactly", argon, "", Limits{MaxMemoryKiB: 100, MaxTime: 5, MaxCPUs: 2}},
		{"iterations", strings.Replace(jsonText(h), "1000", "2001", 1), "keyslots.0.kdf.iterations", Limits{MaxIterations: 2000}},
		{"iterations exactly", strings.Replace(jsonText(h), "1000", "2000", 1), "", Limits{MaxIterations: 2000}},
		{"iterations beyond an int32", strings.Replace(jsonText(h), "1000", "2147483648", 1), "keyslots.0.kdf.iterations", Limits{MaxIterations: 1<<32 - 1}},
	} {
		_, err := Check(withJSON(h, test.text), deviceSize, test.limits)
		var field *FieldError
		if test.field == "" && err != nil || test.field != "" && (!errors.As(err, &field) || field.Field != test.field) {
			t.Errorf("%s: Check = %v; want a FieldError of %q", test.name, err, test.field)
		}
	}
}
