package inspect

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/archive"
)

// program is what an archive's init says of itself.
type program archive.Program

func (p *program) String() string {
	if p.RuntimeSecret {
		return fmt.Sprintf("%s, built with %s to clear the key from its own memory", p.Package, p.Go)
	}
	return fmt.Sprintf("%s, built with %s", p.Package, p.Go)
}

// module is a kernel module of an archive.
type module struct {
	Path     string `json:"path"`
	Optional bool   `json:"optional"`
}

func (m module) String() string {
	if m.Optional {
		return m.Path + " (where the machine has what it is for)"
	}
	return m.Path
}

// member is an entry of an archive.
type member struct {
	Name string `json:"name"`
	Type string `json:"type"` // file, folder, link, device or other
	Mode string `json:"mode"` // octal
	Size uint64 `json:"size"`
}

func (m member) String() string {
	return fmt.Sprintf("%-6s %s %8d %s", m.Type, m.Mode, m.Size, printable(m.Name))
}

func lookArchive(s *subject, r *Report) error {
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return err
	}
	l, err := archive.List(s)
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
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
	var init any // none where it is no Go program
	if l.Init != nil {
		init = (*program)(l.Init)
	}
	modules, members := []module{}, []member{}
	for _, m := range l.Modules {
		modules = append(modules, module{m.Path, m.Optional})
	}
	for _, m := range l.Members {
		members = append(members, member{m.Name, typeOf(m.Mode), fmt.Sprintf("%04o", m.Mode&0o7777), m.FileSize})
	}
	r.Details = Fields{{"compression", l.Compression}, {"debug", l.Debug}, {"init", init}, {"modules", modules}, {"members", members}}
	return nil
}

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
