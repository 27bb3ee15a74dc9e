package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"cocoroot/initramfs/files"
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
	plain, err := decompress(packed)
	if err == nil && !bytes.HasPrefix(plain, []byte("\x7fELF")) {
		err = errors.New("it is not an ELF file")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the kernel module %s: %w: %w", file, ErrFile, err)
	}
	return plain, nil
}

func decompress(packed []byte) ([]byte, error) {
	r, _, err := files.Decompress(bytes.NewReader(packed), maxModule)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readAtMost(r, "its content", maxModule)
}

func unpacked(file string) string {
	if ext := path.Ext(file); ext != ".ko" {
		return file[:len(file)-len(ext)]
	}
	return file
}
