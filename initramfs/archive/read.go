package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/modules"
)

// Bounds of what List reads.
const (
	maxPlain   = 2 << 30  // bytes, decompressed
	maxMembers = 1 << 17  // a distribution's archive has some thousands
	maxInit    = 64 << 20 // bytes
	maxList    = 64 << 10 // bytes, of the list of modules
	maxModule  = 16 << 20 // bytes, of a module that is looked into
	maxName    = 4096     // bytes, PATH_MAX
	window     = 8 << 20  // bytes of zstd's, the most that the kernel's decoder takes
)

// A newc header is 110 characters, with the length of the name at 94.
const (
	headerSize  = 110
	nameLength  = 94
	newcMagic   = "070701"
	hexOfNumber = 8
)

// errArchive is for what the kernel would not unpack to its end.
var errArchive = errors.New("not a complete cpio archive")

// Listing is what is in an archive.
type Listing struct {
	Compression string // zstd, gzip or none
	Members     []cpio.Info
	Init        *Program // nil where init is no Go program
	Debug       bool     // it has a shell, or the debug init
	Modules     []modules.Entry
	Foreign     []string // names of members that Write never makes
	// Problems is what keeps it from being an archive that Write made of
	// files that fit together.
	Problems []error
}

// IsArchive reports whether a file that begins so may be an archive that List
// reads.
func IsArchive(head []byte) bool {
	begins := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	return begins(newcMagic) || begins("\x1f\x8b") || begins("\x28\xb5\x2f\xfd") // cpio, gzip, zstd
}

// List reads an archive, from anyone, in one pass. It holds init, the list of
// modules and one module in memory, and nothing else of the content.
//
// The listing has what was read before an error.
func List(r io.Reader) (Listing, error) {
	plain, format, err := files.Decompress(r, window)
	l := Listing{Compression: format}
	if err != nil {
		return l, fmt.Errorf("%w: %w", errArchive, err)
	}
	defer plain.Close()
	if format != "none" && format != "gzip" && format != "zstd" { // which IsArchive knows
		return l, fmt.Errorf("%w: it is compressed as %s", errArchive, format)
	}
	s := &stream{r: io.LimitReader(plain, maxPlain)}
	if err := l.read(s); err != nil {
		return l, fmt.Errorf("%w: %w", errArchive, err)
	}
	l.judge(s)
	return l, nil
}

// read lists the members up to the trailer.
func (l *Listing) read(s *stream) error {
	found := make(map[string]bool)
	var list, init []byte
	in := cpio.Newc.Reader(s)
	for {
		m, err := in.ReadRecord()
		switch {
		case err == io.EOF: // the trailer; stream has another error for the end
			l.take(found, init, list)
			return nil
		case err != nil:
			return err
		case len(l.Members) == maxMembers:
			return fmt.Errorf("more than %d members", maxMembers)
		}
		l.Members = append(l.Members, m.Info)
		if found[m.Name] {
			l.problem("%.128q: %w", m.Name, ErrDuplicate)
		}
		found[m.Name] = true
		switch {
		case m.Mode&unix.S_IFMT != unix.S_IFREG:
		case m.Name == "init":
			init, err = content(m, maxInit)
		case m.Name == modules.ListPath[1:]:
			list, err = content(m, maxList)
		case strings.HasSuffix(m.Name, ".ko") && m.FileSize <= maxModule:
			var module []byte
			if module, err = content(m, maxModule); isFake(module) {
				l.Problems = append(l.Problems, fmt.Errorf("%.128q: %w", m.Name, ErrFake))
			}
		}
		if err != nil {
			return err
		}
	}
}

// ours reports whether an archive that Write made, a debug archive or not, may
// have such a member. The type counts, for the kernel writes through links:
// what lies in a folder that is a link, or has the number of another file,
// could take the place of init.
func ours(m cpio.Info, debug bool) bool {
	kind := m.Mode & unix.S_IFMT
	folder, file := kind == unix.S_IFDIR, kind == unix.S_IFREG && m.NLink <= 1
	switch m.Name {
	case "dev", "etc", "etc/cocoroot", "lib", modules.Dir[1:]:
		return folder
	case commandDir:
		return folder && debug
	case "dev/console", "dev/null":
		return kind == unix.S_IFCHR
	case "init", modules.ListPath[1:]:
		return file
	}
	if command, ok := strings.CutPrefix(m.Name, commandDir+"/"); ok {
		return debug && (file || kind == unix.S_IFLNK) && !strings.Contains(command, "/")
	}
	return (file || folder) && strings.HasPrefix(m.Name, modules.Dir[1:]+"/")
}

func content(m cpio.Record, limit uint64) ([]byte, error) {
	if m.FileSize > limit {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", m.Name, m.FileSize, limit)
	}
	b := make([]byte, m.FileSize)
	if _, err := m.ReadAt(b, 0); err != nil && (err != io.EOF || len(b) > 0) {
		return nil, err
	}
	return b, nil
}

func (l *Listing) take(found map[string]bool, init, list []byte) {
	if p, err := readProgram(init); err == nil {
		l.Init = &p
	}
	want := initPackage
	if l.Debug = found[commandShell] || l.Init != nil && l.Init.Package == debugPackage; l.Debug {
		want = debugPackage
	}
	if !found["init"] {
		l.problem("it has no init: the kernel would look for a root of its own")
	} else if err := checkInit(init, want); err != nil {
		l.problem("%w", err)
	}
	for _, m := range l.Members {
		if !ours(m, l.Debug) {
			l.Foreign = append(l.Foreign, m.Name)
		}
	}
	var err error
	if l.Modules, err = modules.ParseList(string(list)); err != nil {
		l.problem("%w", err)
	}
	for _, m := range l.Modules {
		if !found[m.Path[1:]] {
			l.problem("init would load %s, which is not there", m.Path)
		}
	}
}

// judge looks at what follows the archive: the kernel unpacks that too, over
// what was there.
func (l *Listing) judge(s *stream) {
	for b := make([]byte, 4096); ; {
		n, err := s.r.Read(b)
		switch {
		case len(bytes.Trim(b[:n], "\x00")) > 0:
			l.problem("something follows the archive: the kernel unpacks it over the rest")
			return
		case err == io.EOF:
			return
		case err != nil:
			l.problem("what follows the archive: %w", err)
			return
		}
	}
}

func (l *Listing) problem(format string, args ...any) {
	l.Problems = append(l.Problems, fmt.Errorf(format, args...))
}

// stream gives the cpio library a reader to jump forward in.
type stream struct {
	r   io.Reader
	pos int64
}

func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	if off < s.pos {
		return 0, fmt.Errorf("cannot go back from byte %d to byte %d", s.pos, off)
	}
	skipped, err := io.CopyN(io.Discard, s.r, off-s.pos)
	n := 0
	if err == nil {
		n, err = io.ReadFull(s.r, p)
	}
	s.pos += skipped + int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF { // which the library takes for the trailer
		return n, fmt.Errorf("it ends at byte %d, before its trailer", s.pos)
	}
	if err != nil {
		return n, err
	}
	return n, checkName(p)
}

// checkName refuses a header with a name that no file can have, because the
// library would allocate that much.
func checkName(p []byte) error {
	if len(p) != headerSize || string(p[:len(newcMagic)]) != newcMagic {
		return nil
	}
	n, err := strconv.ParseUint(string(p[nameLength:nameLength+hexOfNumber]), 16, 32)
	if err == nil && n > maxName {
		return fmt.Errorf("a name of %d bytes", n)
	}
	return nil
}
