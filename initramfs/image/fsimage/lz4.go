package fsimage

import "errors"

var errLZ4 = errors.New("its lz4 is malformed")

// lz4Block decompresses an lz4 block until dst is full or src is at its end.
// (The lz4 block format, "lz4_Block_format.md" 1.6.3.) erofs needs both: its
// blocks may decompress to more than a file has of them, and may be followed
// by something else.
func lz4Block(dst, src []byte) (int, error) {
	n := 0
	for n < len(dst) && len(src) > 0 {
		token := src[0]
		literals, rest, err := lz4Length(int(token>>4), src[1:])
		if err != nil {
			return n, err
		}
		if literals > len(rest) {
			if n+len(rest) < len(dst) {
				return n, errLZ4
			}
			literals = len(rest)
		}
		n += copy(dst[n:], rest[:literals])
		if src = rest[literals:]; len(src) == 0 || n == len(dst) {
			return n, nil
		}
		if len(src) < 2 {
			return n, errLZ4
		}
		back := int(le.Uint16(src))
		match, rest, err := lz4Length(int(token&15), src[2:])
		if err != nil {
			return n, err
		}
		if back == 0 || back > n {
			return n, errLZ4
		}
		for range min(match+4, len(dst)-n) { // may overlap what it writes
			dst[n] = dst[n-back]
			n++
		}
		src = rest
	}
	return n, nil
}

// lz4Length reads the rest of a length, of which 15 in the token is the
// beginning.
func lz4Length(n int, src []byte) (int, []byte, error) {
	if n < 15 {
		return n, src, nil
	}
	for {
		if len(src) == 0 {
			return 0, nil, errLZ4
		}
		b := src[0]
		src = src[1:]
		n += int(b)
		if b != 255 {
			return n, src, nil
		}
	}
}
