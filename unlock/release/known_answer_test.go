package release

import (
	"bytes"
	"crypto/hpke"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// TestKnownAnswer checks the guest's side against the known answer;
// initramfs/release/snp has the owner's, and wrote it.
func TestKnownAnswer(t *testing.T) {
	text, err := os.ReadFile("testdata/known-answer.json")
	if err != nil {
		t.Fatal(err)
	}
	digits := map[string]string{}
	if err := json.Unmarshal(text, &digits); err != nil {
		t.Fatal(err)
	}
	v := map[string][]byte{}
	for name, s := range digits {
		if v[name], err = hex.DecodeString(s); err != nil {
			t.Fatal(err)
		}
	}
	key, err := hpke.MLKEM768X25519().NewPrivateKey(v["guest_seed"])
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Challenge: [ChallengeSize]byte(v["challenge"]), Public: key.PublicKey().Bytes(), Report: v["report"]}
	data, transcript := r.ReportData(v["owner"]), Transcript(r.Encode())
	table, confirm, err := open(v["owner"], key, transcript, v["answer"])
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"report_data": data[:], "request": r.Encode(), "transcript": transcript[:], "table": table, "confirmation": confirm,
	} {
		if !bytes.Equal(got, v[name]) {
			t.Errorf("%s: %x; want %x", name, got, v[name])
		}
	}
}
