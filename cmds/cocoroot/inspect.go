package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/secmem"
)

// inspectHead is how many bytes from a file's begin decide what it is.
const inspectHead = 4096

// inspection is what there is to say of a file. It compares the file with
// nothing that is trusted: that no problem is found says that the file is
// whole, and not that it is the right one.
type inspection struct {
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

	foreign error // why a firmware is not ours
}

// printer prints fields a line each.
type printer interface{ print(io.Writer) }

func (r *inspection) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (r *inspection) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// subject is a file that is inspected.
type subject struct {
	*os.File
	path  string
	size  int64
	block bool           // a block device, which may be longer than what is on it
	head  *secmem.Buffer // its first bytes, which may be secret
	area  int            // bytes that a secret table has to fit
	show  bool           // print secrets
	own   ovmf.Own       // the firmware that is ours
	table *secmem.Buffer // a secret table, kept until it is printed
}

// inspector looks at one kind of file. It returns false, having said nothing,
// for a file of another kind. An error is one of reading, not of the content.
type inspector func(s *subject, r *inspection) (bool, error)

// inspectors are in the order in which they are asked: those that know their
// kind for certain come first, those that go by size and text last.
func inspectors() []inspector {
	return []inspector{
		inspectSecretTable, inspectHashesTable, inspectImage, inspectArchive, inspectKernel,
		inspectJSON, inspectFirmware, inspectCertificates, inspectPacketHeader, inspectSession, inspectCmdline,
	}
}

const knownKinds = "known are: firmware (OVMF, SVSM), kernel, archive (cpio; plain, gzip or zstd), command line, hashes table, " +
	"secret table, sealed image, manifest, packet and packet header, launch report, session blob, SEV certificates"

// errKind is returned for a file of no known kind.
var errKind = errors.New("it is none of the files that this program knows")

func (a *app) inspect() *cobra.Command {
	c := verb("inspect FILE", "say what a file is and what is wrong with it, without secrets", "  cocoroot inspect image", oneArg("the file"))
	flags := c.Flags()
	firmware := flags.String("firmware", "", "for a secret table: the firmware that will get it (default: OVMF AmdSev's area of 3072 bytes)")
	show := flags.Bool("show-secrets", false, "for a secret table: print the secrets too")
	asJSON := flags.Bool("json", false, "print JSON")
	c.RunE = func(_ *cobra.Command, args []string) error { return a.inspectFile(args[0], *firmware, *show, *asJSON) }
	return c
}

func (a *app) inspectFile(path, firmware string, show, asJSON bool) error {
	area, err := tableArea(firmware)
	if err != nil {
		return err
	}
	s, err := openSubject(path)
	if err != nil {
		return err
	}
	defer s.close()
	s.area, s.show, s.own = area, show, a.own
	return s.inspect(a, asJSON)
}

// inspect asks one inspector after the other, and prints.
func (s *subject) inspect(a *app, asJSON bool) error {
	r := inspection{File: s.path, Size: s.size, Warnings: []string{}, Problems: []string{}}
	for _, look := range inspectors() {
		known, err := look(s, &r)
		if err != nil {
			return fmt.Errorf("cannot inspect %s: %w", s.path, err)
		}
		if !known {
			continue
		}
		if r.foreign != nil {
			a.warn("%s", foreign(r.foreign))
		}
		if asJSON {
			if err := printJSON(a.stdout, r); err != nil {
				return err
			}
		} else {
			r.print(a.stdout)
		}
		return r.judge()
	}
	return hinted(fmt.Errorf("cannot inspect %s: %w", s.path, errKind), "%s", knownKinds)
}

func (r *inspection) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s, %d bytes\n", printable(r.File), r.title, r.Size)
	if r.Details != nil {
		r.Details.print(w)
	}
	for _, t := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", t)
	}
	for _, t := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", t)
	}
}

// judge turns problems into the tool's error.
func (r *inspection) judge() error {
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
	return hinted(err, "%s", r.hint)
}

// openSubject opens a file or a block device. Nothing else has a size, and
// some of it has no end.
func openSubject(path string) (_ *subject, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would keep us waiting
	if err != nil {
		return nil, fmt.Errorf("cannot inspect: %w", err)
	}
	s := &subject{File: f, path: path}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("cannot inspect %s: %w", path, err)
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const device = os.ModeDevice | os.ModeCharDevice
	s.block = fi.Mode()&device == os.ModeDevice
	if !fi.Mode().IsRegular() && !s.block {
		return nil, errNotFile
	}
	if s.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
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

var errNotFile = errors.New("it is neither a regular file nor a block device")

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
	if q := strconv.Quote(s); len(q) != len(s)+2 {
		return fmt.Sprintf("%.1024s", q)
	}
	return fmt.Sprintf("%.1024s", s)
}

// fields print a line each, and are an object in JSON, in their order.
type fields []field

type field struct {
	name  string // as in JSON
	value any
}

func (f *fields) add(name string, value any) { *f = append(*f, field{name, value}) }

func (f fields) print(w io.Writer) {
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
