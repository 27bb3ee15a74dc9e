package packet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret/table"
)

func locked(t *testing.T, data []byte) *secmem.Buffer {
	t.Helper()
	b, err := secmem.New(len(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	copy(b.Bytes(), data)
	return b
}

// TestVector goes the whole way from the secret's text to header and payload.
func TestVector(t *testing.T) {
	var file struct {
		V struct {
			TIK, TEK string
			IV       []byte `json:"iv_b64"`
			Measure  []byte `json:"measure_b64"`
			Entries  [][2]string
			Table    string
			Header   []byte `json:"header_b64"`
			Payload  []byte `json:"payload_b64"`
		} `json:"launch_secret"`
	}
	if err := json.Unmarshal(oracle.Vector(t, "secret.json"), &file); err != nil {
		t.Fatal(err)
	}
	v := file.V
	tik, _ := hex.DecodeString(v.TIK)
	tek, _ := hex.DecodeString(v.TEK)
	keys := &session.Keys{TIK: locked(t, tik), TEK: locked(t, tek)}
	var entries []table.Entry
	for _, e := range v.Entries {
		entries = append(entries, table.Entry{GUID: efi.MustParse(e[0]), Data: locked(t, []byte(e[1]))})
	}
	table, err := table.Build(entries, 0xc00)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if got := hex.EncodeToString(table.Bytes()); got != v.Table || got == "" {
		t.Errorf("Build = %s; want %s", got, v.Table)
	}
	var m session.Measurement
	copy(m.MAC[:], v.Measure)
	p, err := seal(keys, table.Bytes(), m, [16]byte(v.IV))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Header, v.Header) || !bytes.Equal(p.Secret, v.Payload) {
		t.Errorf("seal =\n%x %x; want\n%x %x", p.Header, p.Secret, v.Header, v.Payload)
	}
	// Padding left to seal gives the same packet.
	short, err := seal(keys, table.Bytes()[:58], m, [16]byte(v.IV))
	if err != nil || !bytes.Equal(short.Secret, v.Payload) || !bytes.Equal(short.Header, p.Header) {
		t.Errorf("seal of the table without its padding = %+v, %v; want the same packet", short, err)
	}
}

func TestSeal(t *testing.T) {
	keys, err := session.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	a, errA := Seal(keys, make([]byte, 64), session.Measurement{})
	b, errB := Seal(keys, make([]byte, 64), session.Measurement{})
	if errA != nil || errB != nil || [16]byte(a.Header[4:]) == [16]byte(b.Header[4:]) || bytes.Equal(a.Secret, b.Secret) {
		t.Errorf("two packets have the same IV or payload: %+v, %v; %+v, %v", a, errA, b, errB)
	}
	for size, want := range map[int]error{0: errPayload, MaxPayload: nil, MaxPayload + 1: errPayload} {
		if _, err := Seal(keys, make([]byte, size), session.Measurement{}); !errors.Is(err, want) {
			t.Errorf("Seal of %d bytes: %v; want %v", size, err, want)
		}
	}
}

// packets are seeds: header, payload, and the error.
var packets = []struct {
	header, payload []byte
	want            error
}{
	{make([]byte, 52), make([]byte, 16), nil},
	{make([]byte, 52), make([]byte, MaxPayload), nil},
	{bytes.Repeat([]byte{0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9}, 4), make([]byte, 32), nil},
	{make([]byte, 51), make([]byte, 16), errHeader},
	{make([]byte, 53), make([]byte, 16), errHeader},
	{append([]byte{1}, make([]byte, 51)...), make([]byte, 16), errHeader},
	{nil, nil, errHeader},
	{make([]byte, 52), nil, errPayload},
	{make([]byte, 52), make([]byte, 17), errPayload},
	{make([]byte, 52), make([]byte, MaxPayload+16), errPayload},
}

// Header and payload are checked when a packet comes back from a file.
func TestDecodeChecks(t *testing.T) {
	for i, tc := range packets {
		b, err := strictjson.Encode(Packet{strictjson.Version, Kind, tc.header, tc.payload, session.Measurement{Nonce: [16]byte{1}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); !errors.Is(err, tc.want) {
			t.Errorf("packet %d: Decode error = %v; want %v", i, err, tc.want)
		}
	}
}
