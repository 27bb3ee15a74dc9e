package inspect

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/snp"
	"cocoroot/unlock/secmem"
)

// subject is a file that is inspected.
type subject struct {
	*os.File
	Options
	path  string
	size  int64
	block bool           // a block device, which may be longer than what is on it
	head  *secmem.Buffer // its first bytes, which may be secret
	table *secmem.Buffer // a secret table, kept until it is printed
	err   error          // of reading, while it was not known what the file is
}

// openSubject opens a file or a block device. Nothing else has a size, and
// some of it has no end.
func openSubject(path string) (_ *subject, err error) {
	f, size, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	s := &subject{File: f, path: path, size: size, block: err == nil && !fi.Mode().IsRegular()}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("cannot inspect %s: %w", path, err)
		}
	}()
	if s.head, err = secmem.New(inspectHead); err != nil {
		return nil, err
	}
	n, err := f.ReadAt(s.head.Bytes(), 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n == 0 {
		return nil, secmem.ErrEmpty
	}
	s.head.Truncate(n)
	return s, nil
}

func (s *subject) close() {
	s.table.Close()
	s.head.Close()
	s.Close()
}

// readAt reads n bytes at off. What the file does not have is
// io.ErrUnexpectedEOF.
func (s *subject) readAt(off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if m, err := s.ReadAt(b, off); m < n {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// whole reads a small file; nil for a longer one.
func (s *subject) whole(limit int64) []byte {
	if s.size > limit {
		return nil
	}
	b, err := s.readAt(0, int(s.size))
	if err != nil {
		s.err = err
	}
	return b
}

// binary64 returns a file of so many bytes, or what its base64 says; nil for
// others.
func (s *subject) binary64(size int) []byte {
	text := base64.StdEncoding.EncodedLen(size)
	b := s.whole(int64(text) + 1) // with a newline
	if len(b) == size {
		return b
	}
	if raw := unbase64(b); len(raw) == size {
		return raw
	}
	return nil
}

// unbase64 returns what base64 on one line says; nil for other text.
func unbase64(text []byte) []byte {
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return nil
	}
	return raw
}

func headed(is func(head []byte) bool) func(*subject) bool {
	return func(s *subject) bool { return is(s.head.Bytes()) }
}

func begins(texts ...string) func(*subject) bool {
	return headed(func(head []byte) bool {
		for _, text := range texts {
			if bytes.HasPrefix(head, []byte(text)) {
				return true
			}
		}
		return false
	})
}

// maxText bounds a small file that is read whole, in bytes. The longest is what a
// SEV-SNP guest asks.
const maxText = snp.MaxFile

func isObject(head []byte) bool { return bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{")) }

// object goes by the names that only one of the JSON files has.
func object(names ...string) func(*subject) bool {
	return func(s *subject) bool {
		if !isObject(s.head.Bytes()) {
			return false
		}
		b := s.whole(maxText)
		for _, name := range names {
			if !bytes.Contains(b, []byte(`"`+name+`"`)) {
				return false
			}
		}
		return true
	}
}
