package release

import (
	"crypto/ed25519"
	"crypto/hpke"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/secmem"
)

const (
	// repeat is how often the guest says that it is there, until it is answered.
	repeat = time.Second
	// cutAfter is how many times in a row nothing comes until a frame that is not
	// whole is given up: whoever was sending it will begin again.
	cutAfter = 3
	// maxReports is how many reports one boot asks for: each new challenge costs
	// one, and the host's firmware gives them slowly.
	maxReports = 8
	seedSize   = 32
)

// Channel leads to the owner, through the host.
type Channel interface {
	// Read waits for bytes, but no longer than repeat or so; none is no error. An
	// error says why the channel is not open at the moment.
	Read(p []byte) (int, error)
	// Write sends a frame, or as much as the host takes in a while.
	Write(p []byte)
}

// Guest asks for the secrets of this boot.
type Guest struct {
	Owner ed25519.PublicKey
	// Attest returns the processor's report over 64 bytes, and what the host adds.
	Attest func(data [HashSize]byte) (report, aux []byte, err error)
	Wait   time.Duration // for the whole exchange
}

// Get makes a key pair, asks for the secret table until an answer comes, and
// returns the table in locked memory. The private key and what follows from it
// are wiped. The errors carry a code: ATTEST, RELEASE, RELEASE-FORM.
func (g Guest) Get(c Channel) (*secmem.Buffer, error) {
	seed, err := secmem.New(seedSize)
	if err != nil {
		return nil, err
	}
	defer seed.Close()
	if _, err := unix.Getrandom(seed.Bytes(), 0); err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	public := make([]byte, publicSize)
	secmem.WithoutResidue(func() {
		var key hpke.PrivateKey
		if key, err = hpke.MLKEM768X25519().NewPrivateKey(seed.Bytes()); err == nil {
			copy(public, key.PublicKey().Bytes())
		}
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	x := exchange{Guest: g, channel: c, public: public}
	answer, err := x.run(time.Now().Add(g.Wait))
	if err != nil {
		return nil, err
	}
	table, err := secmem.New(MaxAnswer)
	if err != nil {
		return nil, err
	}
	confirm := make([]byte, ConfirmSize)
	secmem.WithoutResidue(func() { err = x.open(seed, answer, table, confirm) })
	if err != nil {
		table.Close()
		return nil, &fatal.Error{Code: fatal.ReleaseForm, Err: err}
	}
	// The owner may want to know; the boot does not depend on it.
	c.Write(Append(nil, Done, confirm))
	return table, nil
}

// open opens the answer into table and confirm.
func (x *exchange) open(seed *secmem.Buffer, answer []byte, table *secmem.Buffer, confirm []byte) error {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(seed.Bytes())
	if err != nil {
		return err
	}
	plain, done, err := open(x.Owner, key, x.transcript, answer)
	if err != nil {
		return err
	}
	if len(plain) == 0 {
		return fmt.Errorf("%w: it is empty", errAnswer)
	}
	table.Truncate(copy(table.Bytes(), plain))
	copy(confirm, done)
	return nil
}

// exchange is one conversation over a channel.
type exchange struct {
	Guest
	channel    Channel
	public     []byte
	asked      []byte              // the frame of the last request; nil before the first challenge
	challenge  [ChallengeSize]byte // of that request
	transcript [HashSize]byte
	reports    int
}

// run talks until an answer comes, and returns it unread.
func (x *exchange) run(deadline time.Time) ([]byte, error) {
	var frames Frames
	var spoke time.Time
	var closed error // why the channel is not open
	quiet := 0
	buf := make([]byte, 16<<10)
	for time.Now().Before(deadline) {
		if time.Since(spoke) >= repeat {
			spoke = time.Now()
			x.channel.Write(Append(nil, Hello, x.hello()))
		}
		var n int
		n, closed = x.channel.Read(buf)
		if quiet++; n > 0 {
			quiet = 0
		} else if quiet == cutAfter {
			frames.Cut()
		}
		if err := frames.Add(buf[:n]); err != nil {
			return nil, fatal.Errorf(fatal.Release, "cannot hear the owner: %w", err)
		}
		for k, body, ok := frames.Next(); ok && time.Now().Before(deadline); k, body, ok = frames.Next() {
			if answer, err := x.take(k, body); err != nil || answer != nil {
				return answer, err
			}
		}
	}
	const next = "run cocoroot release on the host of this guest, and boot it again"
	if closed != nil {
		return nil, fatal.Errorf(fatal.Release, "the owner could not be reached within %s: %w; "+next, x.Wait, closed)
	}
	return nil, fatal.Errorf(fatal.Release, "the owner did not answer within %s; "+next, x.Wait)
}

// hello is what the guest says while it waits.
func (x *exchange) hello() []byte {
	b := []byte(Protocol)
	if x.asked != nil {
		b = append(b, x.transcript[:]...)
	}
	return b
}

// take acts on a frame; it returns the answer when that is what came.
func (x *exchange) take(k Kind, body []byte) ([]byte, error) {
	switch k {
	case Challenge:
		return nil, x.challenged(body)
	case Answer:
		if x.asked == nil {
			return nil, fatal.Errorf(fatal.ReleaseForm, "%w: nothing was asked yet", errAnswer)
		}
		return body, nil
	case Refusal:
		return nil, fatal.Errorf(fatal.Release, "the owner does not release the secrets; cocoroot release verify says there why")
	}
	return nil, nil // the guest's own, come back
}

// challenged answers a challenge with a request: with the same one, if the
// challenge is.
func (x *exchange) challenged(body []byte) error {
	if len(body) != ChallengeSize {
		return nil // not the owner's
	}
	if x.asked == nil || x.challenge != [ChallengeSize]byte(body) {
		if x.reports++; x.reports > maxReports {
			return fatal.Errorf(fatal.Release, "the host brought more than %d challenges", maxReports)
		}
		r := Request{Challenge: [ChallengeSize]byte(body), Public: x.public}
		var err error
		if r.Report, r.Aux, err = x.Attest(r.ReportData(x.Owner)); err != nil {
			return fatal.Errorf(fatal.CodeOf(err, fatal.Attest), "%w", err)
		}
		if len(r.Report) != Report || len(r.Aux) > maxAux {
			return fatal.Errorf(fatal.Attest, "the attestation report has %d bytes and its certificates %d; SEV-SNP's have %d and at most %d", len(r.Report), len(r.Aux), Report, maxAux)
		}
		text := r.Encode()
		x.challenge, x.transcript, x.asked = r.Challenge, Transcript(text), Append(nil, Ask, text)
	}
	x.channel.Write(x.asked)
	return nil
}
