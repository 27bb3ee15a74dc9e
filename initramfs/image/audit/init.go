package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Bounds of how Linux starts a program.
const (
	maxScript   = 256     // bytes of a first line, BINPRM_BUF_SIZE
	maxScripts  = 5       // interpreters of interpreters, fs/exec.c
	maxSegments = 1 << 16 // bytes of program headers, fs/binfmt_elf.c
	maxInterp   = 4096    // bytes of the loader's path, PATH_MAX
)

// startsSystemd reports whether init is systemd.
func (r *root) startsSystemd() bool {
	p, ok := r.resolve(r.init)
	return ok && path.Base(p) == "systemd"
}

// findInit finds what keeps init from being started.
func findInit(r *root) []string {
	if err := r.runs(r.init, 0); err != nil {
		return []string{fmt.Sprintf("%s: %v", show(r.init), err)}
	}
	return nil
}

// runs checks that a file can be executed, and its interpreter too.
func (r *root) runs(name string, depth int) error {
	fi := r.stat(name)
	switch {
	case fi == nil:
		return errors.New("it is not there")
	case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
		return errors.New("it is not an executable file")
	case depth > maxScripts:
		return errors.New("its interpreters have too many interpreters")
	}
	head := r.head(name, maxScript)
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return r.runsELF(name)
	}
	line, ok := bytes.CutPrefix(head, []byte("#!"))
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

// runsELF checks that a program is for this processor, and that its loader is
// there (the ELF-64 object file format 1.5 and the x86-64 psABI: numbers of
// header and program headers).
func (r *root) runsELF(name string) error {
	const (
		headerSize  = 64
		segmentSize = 56
		class64     = 2 // at 4: ELFCLASS64
		little      = 1 // at 5: ELFDATA2LSB
		x86         = 62
		interpreter = 3 // PT_INTERP
	)
	le := binary.LittleEndian
	h := r.head(name, headerSize)
	if len(h) < headerSize || h[4] != class64 || h[5] != little || le.Uint16(h[18:]) != x86 {
		return errors.New("it is no program for x86-64")
	}
	off, size, count := le.Uint64(h[32:]), int(le.Uint16(h[54:])), int(le.Uint16(h[56:]))
	if size != segmentSize || count == 0 || size*count > maxSegments {
		return errors.New("its ELF header is malformed")
	}
	segments, err := r.at(name, off, size*count)
	if err != nil {
		return err
	}
	for s := segments; len(s) > 0; s = s[size:] {
		if le.Uint32(s) != interpreter {
			continue
		}
		if n := le.Uint64(s[32:]); n < 2 || n > maxInterp {
			return errors.New("its ELF header is malformed")
		}
		b, err := r.at(name, le.Uint64(s[8:]), int(le.Uint64(s[32:])))
		if err != nil {
			return err
		}
		loader := string(bytes.TrimRight(b, "\x00"))
		if fi := r.stat(loader); fi == nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
			return fmt.Errorf("its loader %s is not there", quote(loader))
		}
	}
	return nil
}

// at returns n bytes of a file from off on.
func (r *root) at(name string, off uint64, n int) ([]byte, error) {
	p, _ := r.resolve(name)
	f, err := r.fs.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ra, ok := f.(io.ReaderAt)
	if !ok || off > 1<<62 {
		return nil, errors.New("its ELF header is malformed")
	}
	b := make([]byte, n)
	if m, err := ra.ReadAt(b, int64(off)); m < n {
		if err == io.EOF {
			return nil, errors.New("it ends before what its ELF header says")
		}
		return nil, err
	}
	return b, nil
}

// readAtMost reads n bytes, or fewer to the end.
func readAtMost(r io.Reader, n int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, n))
}
