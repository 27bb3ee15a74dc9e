package fsimage

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// codec decompresses src into dst and returns how many bytes it is. More
// than fits into dst is an error, and nothing much larger than dst is
// allocated, whatever src asks for.
type codec func(dst, src []byte) (int, error)

// maxDictionary bounds what an xz stream may ask for, in bytes. mksquashfs
// takes a block's size.
const maxDictionary = 1 << 20

var errSize = errors.New("it decompresses to more than a block")

// newCodec returns what a squashfs is compressed with, by its number
// (fs/squashfs/squashfs_fs.h). lzma (2) Linux has no reader for; lzo (3) the
// guest's kernel has none for.
func newCodec(compression uint16) (codec, error) {
	switch compression {
	case 1:
		return inflate, nil
	case 4:
		return xzBlock, nil
	case 5:
		return lz4Block, nil
	case 6:
		return zstdBlock, nil
	}
	return nil, unsupported("squashfs with compression %d; gzip, lz4, xz and zstd are known", compression)
}

func inflate(dst, src []byte) (int, error) {
	z, err := zlib.NewReader(bytes.NewReader(src))
	if err != nil {
		return 0, err
	}
	return fill(dst, z)
}

func zstdBlock(dst, src []byte) (int, error) {
	out, err := zstdDecoder.DecodeAll(src, dst[:0:len(dst)])
	return len(out), err
}

// zstdDecoder has no state between blocks. The bound is that of squashfs's
// largest block, and WithDecodeAllCapLimit makes it that of dst.
var zstdDecoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(1<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are wrong
	}
	return d
}()

func xzBlock(dst, src []byte) (int, error) {
	if err := checkDictionary(src); err != nil {
		return 0, err
	}
	z, err := xz.ReaderConfig{DictCap: 1 << 16, SingleStream: true}.NewReader(bytes.NewReader(src))
	if err != nil {
		return 0, err
	}
	return fill(dst, z)
}

// checkDictionary looks at the first block's header (the .xz file format
// 1.2.1, 3.1 and 5.3.1), for the library allocates what it asks for.
func checkDictionary(src []byte) error {
	const streamHeader = 12
	bad := errors.New("its xz header is malformed")
	if len(src) < streamHeader+8 {
		return bad
	}
	flags, b := src[streamHeader+1], src[streamHeader+2:]
	for _, has := range []byte{0x40, 0x80} { // compressed and uncompressed size
		for flags&has != 0 {
			if len(b) == 0 {
				return bad
			}
			if b[0] < 0x80 { // the last byte of the number
				flags &^= has
			}
			b = b[1:]
		}
	}
	if flags != 0 || len(b) < 3 || b[0] != 0x21 || b[1] != 1 { // LZMA2 alone
		return errors.New("its xz has a filter that is not supported")
	}
	// The size is 2 or 3, times a power of two.
	if d := uint(b[2]); d > 40 || (2|d&1)<<(d/2+11) > maxDictionary {
		return errors.New("its xz asks for a large dictionary")
	}
	return nil
}

// fill reads r to its end into dst.
func fill(dst []byte, r io.Reader) (int, error) {
	n, err := io.ReadFull(r, dst)
	switch err {
	case io.EOF, io.ErrUnexpectedEOF:
		// A stream that breaks off has the same error: what is short then is
		// found where it is used.
		return n, nil
	case nil:
		var more [1]byte
		if m, _ := r.Read(more[:]); m > 0 {
			return n, errSize
		}
	}
	return n, err
}
