package inspect

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"

	"cocoroot/initramfs/archive"
)

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
	Mode string `json:"mode"` // as ls has it
	Size uint64 `json:"size"`
}

func (m member) String() string { return fmt.Sprintf("%s %8d %s", m.Mode, m.Size, printable(m.Name)) }

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
		init = *l.Init
	}
	modules, members := []module{}, []member{}
	for _, m := range l.Modules {
		modules = append(modules, module{m.Path, m.Optional})
	}
	for _, m := range l.Members {
		members = append(members, member{m.Name, (&tar.Header{Mode: int64(m.Mode)}).FileInfo().Mode().String(), m.FileSize})
	}
	r.Details = Fields{{"compression", l.Compression}, {"debug", l.Debug}, {"init", init}, {"modules", modules}, {"members", members}}
	return nil
}
