package release

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Kind says what a frame carries.
type Kind byte

// The kinds of frames, in the order of an exchange.
const (
	Hello     Kind = iota // guest: Protocol, and once it has asked, the transcript
	Challenge             // owner: 32 random bytes
	Ask                   // guest: a Request
	Answer                // owner: signature, encapsulated key, encrypted table
	Refusal               // owner: empty; the reason stays with the owner
	Done                  // guest: the confirmation that the table was opened
	kinds                 // the number of kinds
)

// Sizes in bytes.
const (
	ChallengeSize = 32
	HashSize      = 64 // of SHA-512
	ConfirmSize   = 32
	MaxRequest    = 96 << 10
	MaxAnswer     = 64 << 10
	headerSize    = len(magic) + 1 + 4
)

const magic = "CCR1"

// most returns how long the body of a kind of frame may be.
func (k Kind) most() int {
	return [kinds]int{Hello: len(Protocol) + HashSize, Challenge: ChallengeSize, Ask: MaxRequest, Answer: MaxAnswer, Done: ConfirmSize}[k]
}

// Append appends a frame: the magic number, the kind, the length of the body as
// a little-endian u32, and the body.
func Append(dst []byte, k Kind, body []byte) []byte {
	dst = append(append(dst, magic...), byte(k))
	return append(binary.LittleEndian.AppendUint32(dst, uint32(len(body))), body...)
}

// errFlood is returned when a peer sends more than any exchange needs.
var errFlood = errors.New("too many bytes came that were no answer")

// maxStream bounds what one side takes from the other in bytes.
const maxStream = 4 << 20

// Frames finds the frames in what a peer sends. A line that also carries other
// text, such as a firmware's, is searched for the magic number; what is not a
// frame is skipped. The zero value is ready.
type Frames struct {
	buf   []byte
	taken int
}

// Add takes the next bytes of the stream. It fails when more than 4 MiB came in
// all.
func (f *Frames) Add(b []byte) error {
	if f.taken += len(b); f.taken > maxStream {
		return errFlood
	}
	f.buf = append(f.buf, b...)
	return nil
}

// Cut drops what came of a frame that is not whole.
func (f *Frames) Cut() { f.buf = nil }

// Next returns the next whole frame, and false when there is none yet. No more is
// kept than the longest frame has.
func (f *Frames) Next() (Kind, []byte, bool) {
	for {
		at := bytes.Index(f.buf, []byte(magic))
		if at < 0 {
			// The start of the magic number may be there already.
			f.buf = f.buf[max(0, len(f.buf)-len(magic)+1):]
			return 0, nil, false
		}
		f.buf = f.buf[at:]
		if len(f.buf) < headerSize {
			return 0, nil, false
		}
		k, n := Kind(f.buf[len(magic)]), binary.LittleEndian.Uint32(f.buf[len(magic)+1:])
		if k >= kinds || n > uint32(k.most()) {
			f.buf = f.buf[len(magic):]
			continue
		}
		end := headerSize + int(n)
		if len(f.buf) < end {
			return 0, nil, false
		}
		body := bytes.Clone(f.buf[headerSize:end])
		f.buf = f.buf[end:]
		return k, body, true
	}
}
