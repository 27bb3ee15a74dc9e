package audit

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"

	"cocoroot/initramfs/image/fsimage"
)

// Bounds of how Linux starts a program.
const (
	maxScript  = 256  // bytes of a first line, BINPRM_BUF_SIZE
	maxScripts = 5    // interpreters of interpreters, fs/exec.c
	maxInterp  = 4096 // bytes of the loader's path, PATH_MAX
)

func (r *root) startsSystemd() bool {
	n, p := r.find(r.init, true)
	return n != nil && path.Base(p) == "systemd"
}

func findInit(r *root) []string {
	if err := r.runs(r.init, 0); err != nil {
		return []string{fmt.Sprintf("%s: %v", show(r.init), err)}
	}
	return nil
}

// CheckProgram checks that a file below top can be executed, and its interpreter
// too.
func CheckProgram(top *fsimage.Node, name string) error {
	r := &root{top: top}
	err := r.runs(name, 0)
	return cmp.Or(r.err, err)
}

// runs checks that a file can be executed, and its interpreter too.
func (r *root) runs(name string, depth int) error {
	n, _ := r.find(name, true)
	switch {
	case n == nil:
		return errors.New("it is not there")
	case !isProgram(n):
		return errors.New("it is not an executable file")
	case depth > maxScripts:
		return errors.New("its interpreters have too many interpreters")
	}
	data := r.data(n)
	if bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return r.runsELF(data)
	}
	line, ok := bytes.CutPrefix(data[:min(len(data), maxScript)], []byte("#!"))
	if !ok {
		return errors.New("it is neither an ELF program nor a script")
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) == 0 {
		return errors.New("its first line names no interpreter")
	}
	if err := r.runs(f[0], depth+1); err != nil {
		return fmt.Errorf("its interpreter %s: %w", quote(f[0]), err)
	}
	return nil
}

func isProgram(n *fsimage.Node) bool { return n.Mode.IsRegular() && n.Mode&0o111 != 0 }

// runsELF checks that a program is for this processor, and that its loader is
// there.
func (r *root) runsELF(data []byte) error {
	malformed := errors.New("its ELF header is malformed, or it ends before what that says")
	var h elf.Header64
	_, err := binary.Decode(data, binary.LittleEndian, &h)
	if err != nil || h.Ident[elf.EI_CLASS] != byte(elf.ELFCLASS64) || h.Ident[elf.EI_DATA] != byte(elf.ELFDATA2LSB) || h.Machine != uint16(elf.EM_X86_64) {
		return errors.New("it is not a program for x86-64")
	}
	segments := make([]elf.Prog64, h.Phnum)
	if h.Phentsize != uint16(binary.Size(elf.Prog64{})) || h.Phnum == 0 || h.Phoff > uint64(len(data)) {
		return malformed
	}
	if _, err := binary.Decode(data[h.Phoff:], binary.LittleEndian, segments); err != nil {
		return malformed
	}
	for _, s := range segments {
		if elf.ProgType(s.Type) != elf.PT_INTERP {
			continue
		}
		if s.Filesz < 2 || s.Filesz > maxInterp || s.Off > uint64(len(data)) || s.Filesz > uint64(len(data))-s.Off {
			return malformed
		}
		loader := string(bytes.TrimRight(data[s.Off:s.Off+s.Filesz], "\x00"))
		if n := r.file(loader); n == nil || !isProgram(n) {
			return fmt.Errorf("its loader %s is not there", quote(loader))
		}
	}
	return nil
}
