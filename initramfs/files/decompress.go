package files

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Decompress returns the bytes of a stream that is gzip, zstd, xz, bzip2 or
// none of these, and which. A decoder's memory does not depend on the stream's
// length: zstd may look back on window bytes of its output, xz on as many as
// the stream asks for.
func Decompress(r io.Reader, window uint64) (plain io.ReadCloser, format string, err error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch is := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }; {
	case is("\x1f\x8b"): // RFC 1952
		format = "gzip"
		plain, err = gzip.NewReader(b)
	case is("\x28\xb5\x2f\xfd"): // RFC 8878
		format = "zstd"
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1)); err == nil {
			plain = z.IOReadCloser()
		}
	case is("\xfd7zXZ\x00"): // the .xz file format, 1.2
		format = "xz"
		var x *xz.Reader
		x, err = xz.NewReader(b)
		plain = io.NopCloser(x)
	case is("BZh"):
		return io.NopCloser(bzip2.NewReader(b)), "bzip2", nil
	default:
		return io.NopCloser(b), "none", nil
	}
	if err != nil {
		return nil, format, fmt.Errorf("cannot decompress it: %w", err)
	}
	return plain, format, nil
}
