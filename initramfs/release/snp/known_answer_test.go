package snp

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"cocoroot/unlock/release"
	"cocoroot/unlock/secmem"
)

var update = flag.Bool("update", false, "write the known answer anew")

const knownAnswer = "../../../unlock/release/testdata/known-answer.json"

// text is bytes as hexadecimal digits in JSON.
type text []byte

func (x text) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, x), nil }

func (x *text) UnmarshalText(b []byte) (err error) {
	*x, err = hex.DecodeString(string(b))
	return err
}

// answerVector is one whole exchange.
type answerVector struct {
	OwnerSeed    text `json:"owner_seed"`
	Owner        text `json:"owner"`
	Challenge    text `json:"challenge"`
	GuestSeed    text `json:"guest_seed"`
	GuestPublic  text `json:"guest_public"`
	ReportData   text `json:"report_data"`
	Report       text `json:"report"`
	Request      text `json:"request"`
	Transcript   text `json:"transcript"`
	Table        text `json:"table"`
	Answer       text `json:"answer"`
	Confirmation text `json:"confirmation"`
}

// TestKnownAnswer checks the owner's side against the known answer; unlock/release
// has the guest's. Its report is signed by a chip of the tests.
func TestKnownAnswer(t *testing.T) {
	if *update {
		writeKnownAnswer(t)
	}
	b, err := os.ReadFile(knownAnswer)
	if err != nil {
		t.Fatal(err)
	}
	var v answerVector
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	o := ownerOf(t, v.OwnerSeed)
	key, err := hpke.MLKEM768X25519().NewPrivateKey(v.GuestSeed)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(v.Request)
	if err != nil {
		t.Fatal(err)
	}
	data, transcript := r.ReportData(o.Public), release.Transcript(r.body)
	for name, pair := range map[string][2][]byte{
		"owner":              {o.Public, v.Owner},
		"challenge":          {r.Challenge[:], v.Challenge},
		"guest's key":        {r.Public, v.GuestPublic},
		"its seed":           {key.PublicKey().Bytes(), v.GuestPublic},
		"report":             {r.Report, v.Report},
		"data":               {data[:], v.ReportData},
		"data in the report": {r.Report[0x50:0x90], v.ReportData},
		"transcript":         {transcript[:], v.Transcript},
	} {
		if !bytes.Equal(pair[0], pair[1]) {
			t.Errorf("%s: %x; want %x", name, pair[0], pair[1])
		}
	}
	table, confirm := open(t, ed25519.PublicKey(v.Owner), key, transcript, v.Answer)
	if !bytes.Equal(table, v.Table) || !bytes.Equal(confirm, v.Confirmation) {
		t.Errorf("table %x, confirmation %x; want %x, %x", table, confirm, v.Table, v.Confirmation)
	}
}

func ownerOf(t *testing.T, seed []byte) *Owner {
	t.Helper()
	b, err := secmem.New(len(seed))
	if err != nil {
		t.Fatal(err)
	}
	copy(b.Bytes(), seed)
	o := newOwner(b)
	t.Cleanup(func() { o.Close() })
	return o
}

func writeKnownAnswer(t *testing.T) {
	v := answerVector{
		OwnerSeed: bytes.Repeat([]byte{0x11}, 32), Challenge: bytes.Repeat([]byte{0x22}, 32), GuestSeed: bytes.Repeat([]byte{0x33}, 32),
		// The entry 736869e5-84f0-4973-92ec-06879ce3da0b, "known answer".
		Table: append(append([]byte("\x42\xf5\x74\x1e\xdd\x71\x66\x4d\x96\x3e\xef\x42\x87\xff\x17\x3b\x34\x00\x00\x00"+
			"\xe5\x69\x68\x73\xf0\x84\x73\x49\x92\xec\x06\x87\x9c\xe3\xda\x0b\x20\x00\x00\x00"), "known answer"...), make([]byte, 12)...),
	}
	o := ownerOf(t, v.OwnerSeed)
	key, err := hpke.MLKEM768X25519().NewPrivateKey(v.GuestSeed)
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, "Genoa-B1")
	s.guest, s.owner, s.expect.Challenge.Bytes = key, o.Public, v.Challenge
	r := s.ask(t)
	p, confirm, err := o.Seal(r, v.Table)
	if err != nil {
		t.Fatal(err)
	}
	v.Owner, v.GuestPublic, v.ReportData, v.Report = text(o.Public), r.Public, r.Report[0x50:0x90], r.Report
	v.Request, v.Transcript, v.Answer, v.Confirmation = r.body, p.Transcript[:], p.Answer, confirm[:]
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(knownAnswer, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
