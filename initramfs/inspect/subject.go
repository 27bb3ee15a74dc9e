package inspect

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"slices"
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

// readAt reads n bytes at off; fewer are an error, and none are returned.
func (s *subject) readAt(off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(s, off, int64(n)), b); err != nil {
		return nil, err
	}
	return b, nil
}

// whole reads a small file; nil for a longer one. What is in head, and may be
// secret, is read no second time.
func (s *subject) whole(limit int64) []byte {
	head := s.head.Bytes()
	switch {
	case s.size > limit:
		return nil
	case s.size <= int64(len(head)):
		return head
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
	b := s.whole(2 * int64(size))
	if raw := unbase64(b); len(raw) == size {
		return raw
	}
	if len(b) == size {
		return b
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
		return slices.ContainsFunc(texts, func(text string) bool { return bytes.HasPrefix(head, []byte(text)) })
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
		return !slices.ContainsFunc(names, func(name string) bool { return !bytes.Contains(b, []byte(`"`+name+`"`)) })
	}
}

// parsed is for a small file that is parsed whole; show, if any, has what there is to
// say of it.
func parsed[T any](parse func([]byte) (T, error), show func(*Report, T)) func(*subject, *Report) error {
	return func(s *subject, r *Report) error {
		v, err := parse(s.whole(maxText))
		switch {
		case err != nil:
			r.problem("%v", err)
		case show != nil:
			show(r, v)
		}
		return s.err
	}
}
