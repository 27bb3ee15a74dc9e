package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"cocoroot/initramfs/files"
)

// maxModule bounds one module in bytes, after it is decompressed.
// (The xz decoder also takes the dictionary that the file asks for.)
const maxModule = 16 << 20

// readModule reads a module and decompresses it: the guest's init has no
// decompressor, and a kernel need not have one either.
func readModule(fsys fs.FS, file string) ([]byte, error) {
	f, err := fsys.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read a kernel module: %w", err)
	}
	defer f.Close()
	var plain []byte
	r, _, err := files.Decompress(f, maxModule)
	if err == nil {
		defer r.Close()
		plain, err = io.ReadAll(io.LimitReader(r, maxModule+1))
	}
	if err == nil && len(plain) > maxModule {
		err = fmt.Errorf("it has more than %d bytes", maxModule)
	}
	if err == nil && !bytes.HasPrefix(plain, []byte("\x7fELF")) {
		err = errors.New("it is not an ELF file")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the kernel module %s: %w: %w", file, ErrFile, err)
	}
	return plain, nil
}

func unpacked(file string) string {
	if ext := path.Ext(file); ext != ".ko" {
		return file[:len(file)-len(ext)]
	}
	return file
}
