package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"slices"
	"testing"
	"time"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/secmem"
)

// seal is the owner's side of an answer, written down a second time.
func seal(t *testing.T, owner ed25519.PrivateKey, request, table []byte) (answer, confirm []byte) {
	t.Helper()
	at := 4 + ChallengeSize + 4 + 6 + 4
	public, err := hpke.MLKEM768X25519().NewPublicKey(request[at : at+1216])
	if err != nil {
		t.Fatal(err)
	}
	tr := Transcript(request)
	enc, s, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), Info(tr))
	if err != nil {
		t.Fatal(err)
	}
	ct, err := s.Seal(nil, table)
	if err != nil {
		t.Fatal(err)
	}
	confirm, err = s.Export("done", ConfirmSize)
	if err != nil {
		t.Fatal(err)
	}
	sealed := append(enc, ct...)
	return append(ed25519.Sign(owner, Signed(tr, sealed)), sealed...), confirm
}

// host is a channel whose other end is in the test: reply gets each whole frame
// of the guest's and returns what the host sends then.
type host struct {
	frames Frames
	reply  func(Kind, []byte) []byte
	queue  []byte
	most   int   // bytes at a time
	closed error // why the guest cannot speak
}

func (h *host) Read(p []byte) (int, error) {
	if h.closed != nil {
		time.Sleep(time.Millisecond)
		return 0, h.closed
	}
	n := copy(p[:min(len(p), h.most)], h.queue)
	h.queue = h.queue[n:]
	return n, nil
}

func (h *host) Write(p []byte) {
	if h.closed != nil || h.frames.Add(p) != nil {
		return
	}
	for k, body, ok := h.frames.Next(); ok; k, body, ok = h.frames.Next() {
		h.queue = append(h.queue, h.reply(k, body)...)
	}
}

func attest(data [HashSize]byte) (report, aux []byte, err error) {
	report = make([]byte, Report)
	copy(report[0x50:], data[:])
	return report, nil, nil
}

var challenge = bytes.Repeat([]byte{7}, ChallengeSize)

// A guest gets its table from an owner, however the bytes are cut and whatever
// lies between the frames.
func TestGet(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	for _, most := range []int{1, 7, 1 << 16} {
		var confirmed, want []byte
		noise := []byte("UEFI firmware CCR1CCR CCR1\x09\xff\xff\xff\xff CC")
		h := &host{most: most}
		h.reply = func(k Kind, body []byte) []byte {
			switch k {
			case Hello:
				if len(body) == len(Protocol) {
					return append(noise, Append(nil, Challenge, challenge)...)
				}
			case Ask:
				var answer []byte
				answer, want = seal(t, private, body, []byte("table"))
				return append(Append(noise, Answer, answer), "more"...)
			case Done:
				confirmed = body
			}
			return nil
		}
		table, err := Guest{Owner: public, Attest: attest, Wait: time.Minute}.Get(h)
		if err != nil {
			t.Fatalf("%d bytes at a time: %v", most, err)
		}
		if string(table.Bytes()) != "table" || !bytes.Equal(confirmed, want) {
			t.Errorf("%d bytes at a time: table %q, confirmation %x; want %x", most, table.Bytes(), confirmed, want)
		}
		table.Close()
	}
}

// A carrier that dies in the middle of the answer comes back and sends it again.
func TestCutAnswer(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	var answer []byte
	quiet := 0
	h := &host{most: 1 << 16}
	h.reply = func(k Kind, body []byte) []byte {
		switch {
		case k == Ask:
			a, _ := seal(t, private, body, []byte("table"))
			answer = Append(nil, Answer, a)
			return answer[:len(answer)/2]
		case k == Hello && answer == nil:
			return Append(nil, Challenge, challenge)
		case k == Hello:
			if quiet++; quiet > 1 {
				return answer
			}
		}
		return nil
	}
	table, err := Guest{Owner: public, Attest: attest, Wait: time.Minute}.Get(h)
	if err != nil || string(table.Bytes()) != "table" {
		t.Fatalf("Get = %v; want the table", err)
	}
	table.Close()
}

// What is not the owner's answer to this request ends the exchange.
func TestGetRefuses(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	_, stranger, _ := ed25519.GenerateKey(nil)
	other := Request{Public: make([]byte, 1216), Report: make([]byte, Report)}.Encode()
	answers := map[string]struct {
		make func(request []byte) []byte
		want fatal.Code
	}{
		"another key": {func(r []byte) []byte { a, _ := seal(t, stranger, r, []byte("x")); return Append(nil, Answer, a) }, fatal.ReleaseForm},
		"another request": {func(r []byte) []byte {
			copy(other[4+ChallengeSize+4+6+4:], r[4+ChallengeSize+4+6+4:][:1216])
			a, _ := seal(t, private, other, []byte("x"))
			return Append(nil, Answer, a)
		}, fatal.ReleaseForm},
		"a cut answer": {func(r []byte) []byte {
			a, _ := seal(t, private, r, []byte("x"))
			return Append(nil, Answer, a[:len(a)-1])
		}, fatal.ReleaseForm},
		"an empty answer": {func([]byte) []byte { return Append(nil, Answer, nil) }, fatal.ReleaseForm},
		"an empty table":  {func(r []byte) []byte { a, _ := seal(t, private, r, nil); return Append(nil, Answer, a) }, fatal.ReleaseForm},
		"a changed ciphertext, signed": {func(r []byte) []byte {
			a, _ := seal(t, private, r, []byte("x"))
			sealed := a[64:]
			sealed[len(sealed)-1] ^= 1
			return Append(nil, Answer, append(ed25519.Sign(private, Signed(Transcript(r), sealed)), sealed...))
		}, fatal.ReleaseForm},
		"a changed key, signed": {func(r []byte) []byte {
			a, _ := seal(t, private, r, []byte("x"))
			sealed := a[64:]
			sealed[0] ^= 1
			return Append(nil, Answer, append(ed25519.Sign(private, Signed(Transcript(r), sealed)), sealed...))
		}, fatal.ReleaseForm},
		"a refusal": {func([]byte) []byte { return Append(nil, Refusal, nil) }, fatal.Release},
		"a flood":   {func([]byte) []byte { return bytes.Repeat([]byte("CCR1"), maxStream/4) }, fatal.Release},
		"silence":   {func([]byte) []byte { return nil }, fatal.Release},
	}
	for name, tc := range answers {
		h := &host{most: 1 << 16}
		h.reply = func(k Kind, body []byte) []byte {
			switch k {
			case Hello:
				return Append(nil, Challenge, challenge)
			case Ask:
				return tc.make(body)
			case Done:
				t.Errorf("%s: the guest says that it opened the table", name)
			}
			return nil
		}
		wait := time.Minute
		if name == "silence" {
			wait = 100 * time.Millisecond
		}
		table, err := Guest{Owner: public, Attest: attest, Wait: wait}.Get(h)
		if table != nil || fatal.CodeOf(err, "") != tc.want {
			t.Errorf("%s: %v; want %s", name, err, tc.want)
		}
	}
}

// When nobody could be reached, the error says why.
func TestClosedChannel(t *testing.T) {
	h := &host{closed: errors.New("no such port")}
	_, err := Guest{Owner: make([]byte, 32), Attest: attest, Wait: 50 * time.Millisecond}.Get(h)
	if fatal.CodeOf(err, "") != fatal.Release || !errors.Is(err, h.closed) {
		t.Errorf("Get = %v; want RELEASE, because there is no such port", err)
	}
}

// An answer that comes before the guest has asked is none.
func TestAnswerBeforeTheRequest(t *testing.T) {
	h := &host{most: 1 << 16, reply: func(Kind, []byte) []byte { return Append(nil, Answer, make([]byte, 2000)) }}
	if _, err := (Guest{Owner: make([]byte, 32), Attest: attest, Wait: time.Minute}).Get(h); fatal.CodeOf(err, "") != fatal.ReleaseForm {
		t.Errorf("Get = %v; want RELEASE-FORM", err)
	}
}

// The same challenge brings the same request, another one another report, and
// not more than a few.
func TestChallenges(t *testing.T) {
	public, _, _ := ed25519.GenerateKey(nil)
	reports, next := 0, byte(0)
	var requests [][]byte
	h := &host{most: 1 << 16}
	h.reply = func(k Kind, body []byte) []byte {
		if k == Ask {
			requests = append(requests, body)
		} else if k != Hello {
			return nil
		}
		if len(requests)%2 == 0 {
			next++
		}
		return Append(nil, Challenge, bytes.Repeat([]byte{next}, ChallengeSize))
	}
	_, err := Guest{Owner: public, Wait: time.Minute, Attest: func(d [HashSize]byte) ([]byte, []byte, error) {
		reports++
		return attest(d)
	}}.Get(h)
	if fatal.CodeOf(err, "") != fatal.Release || reports != maxReports {
		t.Errorf("%v after %d reports; want RELEASE after %d", err, reports, maxReports)
	}
	for i := 0; i+1 < len(requests); i += 2 {
		if !bytes.Equal(requests[i], requests[i+1]) {
			t.Errorf("request %d differs from its repetition", i)
		}
		if i > 0 && bytes.Equal(requests[i], requests[i-1]) {
			t.Errorf("request %d is that of another challenge", i)
		}
	}
}

func TestNoUsableReport(t *testing.T) {
	for name, f := range map[string]func([HashSize]byte) ([]byte, []byte, error){
		"none":     func([HashSize]byte) ([]byte, []byte, error) { return nil, nil, errors.New("none") },
		"short":    func([HashSize]byte) ([]byte, []byte, error) { return make([]byte, Report-1), nil, nil },
		"long aux": func([HashSize]byte) ([]byte, []byte, error) { return make([]byte, Report), make([]byte, maxAux+1), nil },
	} {
		h := &host{most: 1 << 16, reply: func(k Kind, _ []byte) []byte {
			if k == Ask {
				t.Errorf("%s: the guest asks", name)
			}
			return Append(nil, Challenge, challenge)
		}}
		if _, err := (Guest{Owner: make([]byte, 32), Attest: f, Wait: time.Minute}).Get(h); fatal.CodeOf(err, "") != fatal.Attest {
			t.Errorf("%s: %v; want ATTEST", name, err)
		}
	}
}

// framesIn returns the frames that are read from a stream which comes in parts.
func framesIn(data []byte, size int) (all [][]byte) {
	var fr Frames
	for part := range slices.Chunk(data, size) {
		if fr.Add(part) != nil {
			return all
		}
		for k, body, ok := fr.Next(); ok; k, body, ok = fr.Next() {
			all = append(all, Append(nil, k, body))
		}
	}
	return all
}

// streams are what a peer may send, and how many frames are in it.
var streams = []struct {
	data   []byte
	frames int
}{
	{nil, 0},
	{[]byte("CCR1\x01\x20\x00\x00\x00"), 0}, // a body to come
	{[]byte("CCR1\x06\x00\x00\x00\x00"), 0}, // no such kind
	{append([]byte("CCR1\x04\x01\x00\x00\x00x"), Append(nil, Refusal, nil)...), 1},     // longer than its kind
	{append([]byte("CCR1\x03\x01\x00\x01\x00x CCR"), Append(nil, Refusal, nil)...), 1}, // longer than any answer
	{Append(Append([]byte("x"), Challenge, challenge), Done, challenge), 2},            // text, and two of them
	{Append([]byte("CCR1CCR"), Answer, make([]byte, 1300)), 1},                         // half a magic number before it
	{append(Append(nil, Hello, []byte(Protocol)), make([]byte, maxStream+1)...), 0},    // a flood, at once
}

// The seeds of FuzzFrames reach every end of the reader.
func TestFuzzFramesSeeds(t *testing.T) {
	for i, s := range streams {
		if got := framesIn(s.data, len(s.data)+1); len(got) != s.frames {
			t.Errorf("stream %d has %d frames; want %d", i, len(got), s.frames)
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, s := range streams {
		f.Add(s.data, 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		if cut < 1 || len(data) == 0 || len(data) > maxStream {
			return
		}
		whole, parts := framesIn(data, len(data)), framesIn(data, cut)
		if !slices.EqualFunc(whole, parts, bytes.Equal) {
			t.Errorf("%d frames at once, %d in parts", len(whole), len(parts))
		}
		for _, w := range whole {
			if k := Kind(w[len(magic)]); k >= kinds || len(w)-headerSize > k.most() {
				t.Errorf("kind %d with %d bytes", k, len(w))
			}
		}
	})
}

// hostile is what a host without the owner's key can send, and the code that it
// ends with.
var hostile = []struct {
	data []byte
	want fatal.Code
}{
	{nil, fatal.Release},
	{Append(Append(nil, Challenge, challenge), Answer, make([]byte, 1300)), fatal.ReleaseForm},
	{Append(Append(nil, Challenge, challenge), Answer, nil), fatal.ReleaseForm},
	{Append(nil, Answer, make([]byte, 1300)), fatal.ReleaseForm},
	{Append(Append(nil, Challenge, challenge[1:]), Refusal, nil), fatal.Release},
}

func attacked(data []byte) (*secmem.Buffer, error) {
	h := &host{most: 1 << 12, reply: func(Kind, []byte) []byte { return nil }, queue: data}
	return Guest{Owner: make([]byte, 32), Attest: attest, Wait: 50 * time.Millisecond}.Get(h)
}

// The seeds of FuzzGuest end in each way.
func TestFuzzGuestSeeds(t *testing.T) {
	for i, s := range hostile {
		if _, err := attacked(s.data); fatal.CodeOf(err, "") != s.want {
			t.Errorf("%d: %v; want %s", i, err, s.want)
		}
	}
}

func FuzzGuest(f *testing.F) {
	for _, s := range hostile {
		f.Add(s.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if table, err := attacked(data); err == nil {
			t.Fatalf("a table of %d bytes came out", len(table.Bytes()))
		}
	})
}
