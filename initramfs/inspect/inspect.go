// Package inspect says what a file is, by what is in it, and what is wrong with
// it. It knows the files that go into a launch and those that the owner's tool
// makes, and shows no secret unless asked to.
//
// Every file may come from anyone. It is compared with nothing that is trusted:
// a file without a problem is well-formed, and may still be the wrong one.
package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/secmem"
)

// inspectHead is how many bytes at the start of a file decide what it is.
const inspectHead = 4096

// Report is what there is to say of a file. It is JSON, too.
type Report struct {
	File     string   `json:"file"`
	Kind     string   `json:"kind"` // a stable word, such as sealed_image
	Size     int64    `json:"size"`
	Warnings []string `json:"warnings"` // worth knowing; the file can be used
	Problems []string `json:"problems"` // the file cannot be used as what it is
	// Details has what is particular to the kind; nil when the file could
	// not be read so far.
	Details printer `json:"details,omitempty"`

	title string // the kind in words
	hint  string // what to do about the first problem

	// Foreign says why a firmware is not ours; nil for ours, and for what is
	// no firmware.
	Foreign error `json:"-"`

	subject *subject
}

// printer prints fields, one per line.
type printer interface{ Print(io.Writer) }

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// subject is a file that is inspected.
type subject struct {
	*os.File
	Options
	path  string
	size  int64
	block bool           // a block device, which may be longer than what is on it
	head  *secmem.Buffer // its first bytes, which may be secret
	table *secmem.Buffer // a secret table, kept until it is printed
}

// inspector looks at one kind of file. It returns false, having said nothing,
// for a file of another kind. An error is one of reading, not of the content.
type inspector func(s *subject, r *Report) (bool, error)

// inspectors are in the order in which they are asked: those that know their
// kind for certain come first, those that go by size and text last.
func inspectors() []inspector {
	return []inspector{
		inspectSecretTable, inspectHashesTable, inspectImage, inspectArchive, inspectKernel,
		inspectJSON, inspectFirmware, inspectCertificates, inspectPacketHeader, inspectSession, inspectKey, inspectTransportKey, inspectCmdline,
	}
}

const knownKinds = "known are: firmware (OVMF, SVSM), kernel, archive (cpio; plain, gzip or zstd), command line, hashes table, " +
	"secret table, key, transport key, sealed image, manifest, packet and packet header, launch report, session blob, SEV certificates"

// ErrKind is returned for a file of no known kind.
var ErrKind = errors.New("it is none of the files that this program knows")

// Options are what a Report depends on beside the file.
type Options struct {
	Own         ovmf.Own // the firmware that is ours
	Area        int      // bytes that a secret table has to fit
	ShowSecrets bool     // list what is in a secret table
}

// File says what a file or block device is. A file that is damaged is no error
// here, but has Problems; ErrKind is returned for one of no known kind.
func File(path string, o Options) (*Report, error) {
	s, err := openSubject(path)
	if err != nil {
		return nil, err
	}
	s.Options = o
	r := &Report{File: path, Size: s.size, Warnings: []string{}, Problems: []string{}, subject: s}
	for _, look := range inspectors() {
		known, err := look(s, r)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("cannot inspect %s: %w", path, err)
		}
		if known {
			return r, nil
		}
	}
	qcow2 := files.IsQcow2(s.head.Bytes())
	s.close()
	if qcow2 {
		return nil, fmt.Errorf("cannot inspect %s: %w: %s", path, ErrKind, files.Raw)
	}
	return nil, fault.Hintf(fmt.Errorf("cannot inspect %s: %w", path, ErrKind), "%s", knownKinds)
}

// Close forgets what the report shows of a secret table.
func (r *Report) Close() { r.subject.close() }

// Print prints the report, some lines of text.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s, %d bytes\n", printable(r.File), r.title, r.Size)
	if r.Details != nil {
		r.Details.Print(w)
	}
	for _, t := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", t)
	}
	for _, t := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", t)
	}
}

// Err returns an error for a report with problems.
func (r *Report) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	more := ""
	if n := len(r.Problems) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	err := fmt.Errorf("cannot use %s as %s: %s%s", r.File, r.title, r.Problems[0], more)
	if r.hint == "" {
		return err
	}
	return fault.Hintf(err, "%s", r.hint)
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

// begins reports whether the file begins with text.
func (s *subject) begins(text string) bool {
	return strings.HasPrefix(string(s.head.Bytes()[:min(len(text), len(s.head.Bytes()))]), text)
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

// whole reads a small file; ok is false for a longer one.
func (s *subject) whole(limit int64) (b []byte, ok bool, err error) {
	if s.size > limit {
		return nil, false, nil
	}
	b, err = s.readAt(0, int(s.size))
	return b, err == nil, err
}

// printable quotes what would not show as it is, and bounds it.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	return fmt.Sprintf("%.8192s", s)
}

// fields print one per line, and are an object in JSON, in their order.
type fields []field

type field struct {
	name  string // as in JSON
	value any
}

func (f *fields) add(name string, value any) { *f = append(*f, field{name, value}) }

// Print implements printer.
func (f fields) Print(w io.Writer) {
	for _, v := range f {
		name := strings.ReplaceAll(v.name, "_", " ")
		if list, ok := v.value.([]string); ok {
			for _, e := range list {
				fmt.Fprintf(w, "%s: %s\n", name, printable(e))
			}
			continue
		}
		fmt.Fprintf(w, "%s: %s\n", name, printable(fmt.Sprint(v.value)))
	}
}

// MarshalJSON implements json.Marshaler.
func (f fields) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range f {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(v.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", v.name, value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}
