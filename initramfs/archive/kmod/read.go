package kmod

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one module in bytes, before and after it is decompressed.
// (The xz decoder also takes the dictionary that the file asks for.)
const maxModule = 16 << 20

// readModule reads a module and decompresses it: the guest's init has no
// decompressor, and a kernel need not have one either.
func readModule(fsys fs.FS, file string) ([]byte, error) {
	packed, err := readBounded(fsys, file, maxModule)
	if err != nil {
		return nil, fmt.Errorf("cannot read a kernel module: %w", err)
	}
	plain, err := decompress(file, bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("cannot use the kernel module %s: %w: %w", file, ErrFile, err)
	}
	if !bytes.HasPrefix(plain, []byte("\x7fELF")) {
		return nil, fmt.Errorf("cannot use the kernel module %s: %w: it is not an ELF file", file, ErrFile)
	}
	return plain, nil
}

// decompress goes by the file's name, as depmod and modprobe do.
func decompress(file string, r io.Reader) ([]byte, error) {
	switch ext := path.Ext(file); ext {
	case ".ko":
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	case ".xz":
		x, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = x
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("compressed as %s; .gz, .xz and .zst are known", ext)
	}
	return readAtMost(r, file, maxModule)
}

// unpacked returns the name of a file once it is decompressed.
func unpacked(file string) string {
	if ext := path.Ext(file); ext != ".ko" {
		return file[:len(file)-len(ext)]
	}
	return file
}
