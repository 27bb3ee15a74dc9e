package inspect

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/archive"
)

// archiveReport is the JSON form of an archive.
type archiveReport struct {
	Compression string           `json:"compression"`
	Debug       bool             `json:"debug"`
	Init        *archive.Program `json:"init"`    // null for what is no Go program
	Modules     []moduleReport   `json:"modules"` // in load order
	Members     []memberReport   `json:"members"`
}

type moduleReport struct {
	Path     string `json:"path"`
	Optional bool   `json:"optional"`
}

type memberReport struct {
	Name string `json:"name"`
	Type string `json:"type"` // file, folder, link, device or other
	Mode string `json:"mode"` // octal
	Size uint64 `json:"size"`
}

// inspectArchive goes by the magic of cpio, or of a compressor with cpio in it.
func inspectArchive(s *subject, r *Report) (bool, error) {
	if !archive.IsArchive(s.head.Bytes()) {
		return false, nil
	}
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	l, err := archive.List(s)
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return false, err
	}
	r.Kind, r.title = "archive", "an initrd"
	if l.Debug {
		r.Kind, r.title = "debug_archive", "a DEBUG initrd"
		r.warn("DEBUG: it has a SHELL for whoever has the console, which is the host; release NO secret to it")
	}
	if err != nil {
		r.problem("%v", err)
	}
	for _, p := range l.Problems {
		r.problem("%v", p)
	}
	if n := len(l.Foreign); n > 0 {
		r.warn("cocoroot initrd never makes %d of its members, such as %s", n, printable(l.Foreign[0]))
	}
	r.hint = "cocoroot initrd makes one"
	r.Details = newArchiveReport(l)
	return true, nil
}

func newArchiveReport(l archive.Listing) archiveReport {
	a := archiveReport{Compression: l.Compression, Debug: l.Debug, Init: l.Init, Modules: []moduleReport{}, Members: []memberReport{}}
	for _, m := range l.Modules {
		a.Modules = append(a.Modules, moduleReport{m.Path, m.Optional})
	}
	for _, m := range l.Members {
		a.Members = append(a.Members, memberReport{m.Name, typeOf(m.Mode), fmt.Sprintf("%04o", m.Mode&0o7777), m.FileSize})
	}
	return a
}

// Print implements printer.
func (a archiveReport) Print(w io.Writer) {
	fmt.Fprintf(w, "compression: %s\n", a.Compression)
	if i := a.Init; i != nil {
		fmt.Fprintf(w, "init: %s, built with %s", printable(i.Package), printable(i.Go))
		if i.RuntimeSecret {
			fmt.Fprint(w, " to clear the key from its own memory")
		}
		fmt.Fprintln(w)
	}
	for _, m := range a.Modules {
		fmt.Fprintf(w, "module: %s", printable(m.Path))
		if m.Optional {
			fmt.Fprint(w, " (where the CPU has what it needs)")
		}
		fmt.Fprintln(w)
	}
	for _, m := range a.Members {
		fmt.Fprintf(w, "member: %-6s %s %8d %s\n", m.Type, m.Mode, m.Size, printable(m.Name))
	}
}

// typeOf names a member's type.
func typeOf(mode uint64) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "folder"
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return "other"
}
