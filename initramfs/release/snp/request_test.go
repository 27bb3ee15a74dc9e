package snp

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/release"
)

// requests are seeds, and whether they are taken.
func requests(t testing.TB) []struct {
	name string
	body []byte
	good bool
} {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := release.Request{Challenge: [32]byte{1}, Public: key.PublicKey().Bytes(), Report: make([]byte, release.Report), Aux: make([]byte, 20)}
	good := r.Encode()
	edit := func(at int, b ...byte) []byte {
		return append(append(bytes.Clone(good[:at]), b...), good[at+len(b):]...)
	}
	bare, most, over := r, r, r
	bare.Aux, most.Aux, over.Aux = nil, make([]byte, maxAux), make([]byte, maxAux+1)
	suite, public := 4+32+4, 4+32+4+6+4
	return []struct {
		name string
		body []byte
		good bool
	}{
		{"good", good, true},
		{"no certificates", bare.Encode(), true},
		{"most certificates", most.Encode(), true},
		{"too many certificates", over.Encode(), false},
		{"nothing", nil, false},
		{"cut", good[:len(good)-1], false},
		{"without the last field", good[:len(good)-24], false},
		{"more", append(bytes.Clone(good), 0), false},
		{"a longer challenge", edit(0, 33), false},
		{"a length beyond the end", edit(0, 0xff, 0xff, 0xff, 0xff), false},
		{"another suite", edit(suite, 0x20), false},
		{"a short public key", edit(public-4, 0xbf), false},
		{"a public key that is none", edit(public, bytes.Repeat([]byte{0xff}, 1184)...), false},
		{"a short report", edit(public+1216, 0x9f), false},
	}
}

// TestFuzzParseRequestSeeds checks that the seeds reach every end of the parser.
func TestFuzzParseRequestSeeds(t *testing.T) {
	for _, tc := range requests(t) {
		r, err := ParseRequest(tc.body)
		if (err == nil) != tc.good || err != nil && !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v; want taken: %v", tc.name, err, tc.good)
		}
		if err == nil && !bytes.Equal(r.Request.Encode(), tc.body) {
			t.Errorf("%s: it is not what it was", tc.name)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, tc := range requests(f) {
		f.Add(tc.body)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRequest(b); err == nil && !bytes.Equal(r.Request.Encode(), b) {
			t.Errorf("ParseRequest(%x) encodes as %x", b, r.Request.Encode())
		}
	})
}

// reports are seeds of report.json, packets of a packet's file.
func fileSeeds(good string) map[string]bool {
	return map[string]bool{
		good:                               true,
		strings.ReplaceAll(good, "\n", ""): true,
		strings.Replace(good, `"version": 1`, `"version": 2`, 1):      false,
		strings.Replace(good, `sev-snp`, `sev`, 1):                    false,
		strings.Replace(good, `"kind": "sev-snp",`, ``, 1):            false,
		strings.Replace(good, `"version"`, `"more": 1, "version"`, 1): false,
		good + "{}":                         false,
		good[:len(good)/2]:                  false,
		"":                                  false,
		"null":                              false,
		strings.Repeat("[", 10000):          false,
		good + strings.Repeat(" ", MaxFile): false,
		`{"version": 1, "kind": "sev-snp"}`: false,
		`{"version": 1, "policy": 7}`:       false,
	}
}

func reportSeeds(t testing.TB) map[string]bool {
	r, err := ParseRequest(requests(t)[0].body)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return fileSeeds(string(b))
}

func packetSeeds(t testing.TB) map[string]bool {
	b, err := Packet{[64]byte{1}, []byte("answer")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	all := fileSeeds(string(b))
	long, err := Packet{[64]byte{1}, make([]byte, release.MaxAnswer+1)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	all[string(long)] = false
	all[strings.Replace(string(b), `"transcript": "AQ`, `"transcript": "`, 1)] = false
	return all
}

// TestFuzzParseReportSeeds checks that the seeds reach every end of the parser.
func TestFuzzParseReportSeeds(t *testing.T) {
	for text, want := range reportSeeds(t) {
		if _, err := ParseReport([]byte(text)); (err == nil) != want || err != nil && !errors.Is(err, ErrFile) && !errors.Is(err, ErrRequest) {
			t.Errorf("ParseReport(%.60q) = %v; want taken: %v", text, err, want)
		}
	}
	if _, err := ParseReport([]byte(`{"version": 1, "policy": 7}`)); !errors.Is(err, strictjson.ErrKind) {
		t.Errorf("a report of SEV: %v; want ErrKind", err)
	}
}

// TestFuzzParsePacketSeeds checks that the seeds reach every end of the parser.
func TestFuzzParsePacketSeeds(t *testing.T) {
	for text, want := range packetSeeds(t) {
		if _, err := ParsePacket([]byte(text)); (err == nil) != want || err != nil && !errors.Is(err, ErrFile) {
			t.Errorf("ParsePacket(%.60q) = %v; want taken: %v", text, err, want)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	for text := range reportSeeds(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParseReport(again); err != nil || !bytes.Equal(q.body, r.body) {
			t.Errorf("ParseReport(Encode(…)) = %x, %v; want %x", q.body, err, r.body)
		}
	})
}

func FuzzParsePacket(f *testing.F) {
	for text := range packetSeeds(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePacket(b)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParsePacket(again); err != nil || q.Transcript != p.Transcript || !bytes.Equal(q.Answer, p.Answer) {
			t.Errorf("ParsePacket(Encode(…)) = %+v, %v; want %+v", q, err, p)
		}
	})
}

// open is the guest's side of an answer, written down a second time.
func open(t testing.TB, owner ed25519.PublicKey, key hpke.PrivateKey, transcript [64]byte, answer []byte) (table, confirm []byte) {
	t.Helper()
	sig, sealed := answer[:64], answer[64:]
	if !ed25519.Verify(owner, append(append([]byte("cocoroot-release-1 answer"), transcript[:]...), sealed...), sig) {
		t.Fatal("the signature is wrong")
	}
	r, err := hpke.NewRecipient(sealed[:1120], key, hpke.HKDFSHA256(), hpke.AES256GCM(), append([]byte("cocoroot-release-1"), transcript[:]...))
	if err != nil {
		t.Fatal(err)
	}
	if table, err = r.Open(nil, sealed[1120:]); err != nil {
		t.Fatal(err)
	}
	if confirm, err = r.Export("done", 32); err != nil {
		t.Fatal(err)
	}
	return table, confirm
}

func TestSeal(t *testing.T) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(requests(t)[0].body)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOwner()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, size := range []int{1, 4096, MaxTable} {
		table := bytes.Repeat([]byte{7}, size)
		p, confirm, err := o.Seal(r, table)
		if err != nil {
			t.Fatal(err)
		}
		got, done := open(t, o.Public, key, release.Transcript(r.body), p.Answer)
		if !bytes.Equal(got, table) || !bytes.Equal(done, confirm[:]) || p.Transcript != release.Transcript(r.body) {
			t.Errorf("%d bytes: %d come out, confirmed with %x; want %x", size, len(got), done, confirm)
		}
		if len(p.Answer) > release.MaxAnswer {
			t.Errorf("%d bytes: an answer of %d", size, len(p.Answer))
		}
	}
	for _, size := range []int{0, MaxTable + 1} {
		if p, _, err := o.Seal(r, make([]byte, size)); err == nil || p.Answer != nil {
			t.Errorf("a table of %d bytes is sealed", size)
		}
	}
}

func TestOwnerFiles(t *testing.T) {
	o, err := NewOwner()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	name := filepath.Join(t.TempDir(), "me")
	if err := files.Write(false, o.Files(name)...); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(name + ".key")
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Size() != 32 {
		t.Errorf("the private half: %v, %v", fi, err)
	}
	back, err := ReadOwner(name + ".key")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	public, err := ReadPublic(name + ".pub")
	if err != nil || !back.Public.Equal(o.Public) || [32]byte(o.Public) != public {
		t.Errorf("keys %x, %x, %x, %v", o.Public, back.Public, public, err)
	}
	if _, err := ReadOwner(name + ".pub"); err == nil {
		t.Error("the public half is taken for the private one")
	}
	if _, err := ReadPublic(name + ".key"); !errors.Is(err, ErrOwner) {
		t.Errorf("the private half as the public one: %v; want ErrOwner", err)
	} else if strings.Contains(err.Error(), string(o.seed.Bytes()[:8])) {
		t.Error("the error shows the private half")
	}
	short := filepath.Join(t.TempDir(), "short")
	os.WriteFile(short, make([]byte, 31), 0o600)
	if _, err := ReadOwner(short); !errors.Is(err, ErrOwner) {
		t.Errorf("a key of 31 bytes: %v; want ErrOwner", err)
	}
}

// A challenge is good once, from the owner's file.
func TestChallenge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	c := NewChallenge(time.Now(), time.Hour)
	f, err := c.File(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Write(false, f); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", fi, err)
	}
	back, err := ReadChallenge(path)
	if err != nil || !bytes.Equal(back.Bytes, c.Bytes) || !back.Expires.Equal(c.Expires) {
		t.Errorf("ReadChallenge = %+v, %v; want %+v", back, err, c)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := c.Use(link); err == nil {
		t.Error("a link to it is used")
	}
	if err := NewChallenge(time.Now(), time.Hour).Use(path); err == nil {
		t.Error("another one is used, of which the file has nothing any more")
	}
	if err := files.Write(false, f); err != nil {
		t.Fatal(err)
	}
	if err := c.Use(path); err != nil {
		t.Error(err)
	}
	if err := c.Use(path); err == nil {
		t.Error("it is used twice")
	}
	var r *Refusal
	if _, err := ReadChallenge(path); !errors.As(err, &r) || r.Check != "challenge" {
		t.Errorf("a used one: %v; want a refusal", err)
	}
	for _, text := range []string{`{}`, `{"version": 1, "kind": "challenge", "challenge": "AAAA"}`, `{"version": 2, "kind": "challenge"}`, `{"version": 1, "kind": "sev-snp", "request": "AA=="}`} {
		os.WriteFile(path, []byte(text), 0o600)
		if _, err := ReadChallenge(path); err == nil {
			t.Errorf("%s is taken for a challenge", text)
		}
	}
}

// The table of certificates is the host's, every byte of it.
func TestInTable(t *testing.T) {
	guid := []byte("\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd")
	table := func(offset, length uint32, rest ...byte) []byte {
		b := binary.LittleEndian.AppendUint32(bytes.Clone(guid), offset)
		b = binary.LittleEndian.AppendUint32(b, length)
		return append(append(b, make([]byte, 24)...), rest...)
	}
	for name, tc := range map[string]struct{ table, want []byte }{
		"good":                {table(48, 3, 1, 2, 3), []byte{1, 2, 3}},
		"empty":               {nil, nil},
		"beyond the end":      {table(48, 4, 1, 2, 3), nil},
		"offset overflows":    {table(0xffffffff, 2, 1, 2, 3), nil},
		"nothing of it":       {table(48, 0, 1, 2, 3), nil},
		"after the last":      {append(make([]byte, 24), table(72, 3, 1, 2, 3)...), nil},
		"cut in the entry":    {guid, nil},
		"another certificate": {append([]byte{1}, table(48, 3, 1, 2, 3)[1:]...), nil},
	} {
		if got := inTable(tc.table, false); !bytes.Equal(got, tc.want) {
			t.Errorf("%s: %x; want %x", name, got, tc.want)
		}
	}
	s := newScene(t, "Genoa-B1")
	all, err := s.chip.CertTableBytes()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(inTable(all, false), s.chip.Vcek.Raw) || !bytes.Equal(inTable(all, true), s.chip.Vlek.Raw) {
		t.Error("the certificates of a table that go-sev-guest made are not found")
	}
}
