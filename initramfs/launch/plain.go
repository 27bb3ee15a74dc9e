package launch

import (
	"io"
	"unicode"
	"unicode/utf8"
)

// Plain passes on the text of a console, and nothing that makes a terminal do
// something: escape sequences, control characters and what does not print are
// left out, so that neither the host nor the guest can rewrite what the user
// sees, answer for the user's terminal, or hide text.
//
// A line ends with its newline; a carriage return is left out, too.
type Plain struct {
	Out io.Writer

	state sequence
	part  []byte // the beginning of a rune whose rest has not come yet
}

// sequence is where in an escape sequence the text is (ECMA-48, 5.3 to 5.6).
type sequence int

const (
	inText    sequence = iota
	afterESC           // what follows decides
	inControl          // CSI: parameters up to a final byte
	inString           // OSC, DCS, APC, PM, SOS: up to BEL or ESC \
	endString          // ESC in a string
)

const (
	bel = 0x07
	esc = 0x1b
)

// Write implements io.Writer. An error is Out's.
func (p *Plain) Write(b []byte) (int, error) {
	text := append(p.part, b...)
	var plain []byte
	for len(text) > 0 && utf8.FullRune(text) {
		r, size := utf8.DecodeRune(text)
		if p.shows(r) {
			plain = utf8.AppendRune(plain, r)
		}
		text = text[size:]
	}
	p.part = append([]byte(nil), text...)
	if len(plain) > 0 {
		if _, err := p.Out.Write(plain); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// shows takes the next rune, and reports whether it is text.
func (p *Plain) shows(r rune) bool {
	if r == esc && p.state != inString && p.state != endString {
		p.state = afterESC
		return false
	}
	switch p.state {
	case afterESC:
		switch {
		case r == '[':
			p.state = inControl
		case r == ']' || r == 'P' || r == '_' || r == '^' || r == 'X':
			p.state = inString
		case r >= 0x20 && r <= 0x2f: // more of the same kind follows
		default:
			p.state = inText
		}
		return false
	case inControl:
		if r >= 0x40 && r <= 0x7e {
			p.state = inText
		}
		if r != '\n' {
			return false
		}
		p.state = inText // no sequence goes on in the next line
	case inString, endString:
		switch {
		case r == bel, p.state == endString && r == '\\':
			p.state = inText
			return false
		case r == esc:
			p.state = endString
			return false
		case r != '\n':
			p.state = inString
			return false
		}
		p.state = inText
	}
	return r == '\n' || r == '\t' || unicode.IsPrint(r)
}
