// Package archive writes the initrd: init, the kernel modules that it loads,
// and the device nodes that a process needs to start at all.
//
// The archive is measured, so the same inputs give the same bytes wherever
// and by whomever it is built: fixed modes, owners and times, our own order,
// and a compressor that is part of the program.
//
// Nothing in the archive is secret; whoever has it can read it.
package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"cocoroot/unlock/modules"
)

// Errors returned by Write.
var (
	ErrDuplicate = errors.New("the name appears twice")
	ErrInit      = errors.New("not an init that this archive may carry")
	ErrFake      = errors.New("it is fake_tsm, which makes FALSE attestation reports for tests")
)

// Module is one kernel module, uncompressed.
type Module struct {
	modules.Entry
	Data []byte
}

// Contents is what an archive carries.
type Contents struct {
	Init    []byte   // the static init
	Modules []Module // in load order

	// Commands is an archive that u-root's own builder made of its commands.
	// It makes this a debug archive, with a shell: Init is the debug init.
	Commands []byte
}

// Write writes the archive, compressed with zstd, to w.
func Write(w io.Writer, c Contents) error {
	records, err := c.records()
	if err != nil {
		return fmt.Errorf("cannot build the archive: %w", err)
	}
	var plain bytes.Buffer
	out := cpio.Newc.Writer(&plain)
	for i, r := range records {
		r.Ino = uint64(i + 1)
		if err := out.WriteRecord(r); err != nil {
			return fmt.Errorf("cannot build the archive: %s: %w", r.Name, err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("cannot build the archive: %w", err)
	}
	return compress(w, plain.Bytes())
}

// compress writes one zstd frame. The kernel's decoder wants the window in
// memory, 8 MiB at most (lib/decompress_unzstd.c: ZSTD_WINDOWSIZE_MAX).
func compress(w io.Writer, plain []byte) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20), zstd.WithEncoderCRC(true))
	if err != nil {
		return fmt.Errorf("cannot compress the archive: %w", err)
	}
	defer enc.Close()
	if _, err := w.Write(enc.EncodeAll(plain, nil)); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return nil
}

// records returns the archive's members in their order: folders before what
// is in them, then by name.
func (c Contents) records() ([]cpio.Record, error) {
	mainPackage := initPackage
	var extra []cpio.Record
	if c.Commands != nil {
		mainPackage = debugPackage
		var err error
		if extra, err = commands(c.Commands); err != nil {
			return nil, err
		}
	}
	if err := checkInit(c.Init, mainPackage); err != nil {
		return nil, err
	}
	list := "" // which modules.ParseList reads
	members := []cpio.Record{
		// A Go program does not start without the descriptors 0 to 2.
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.StaticFile("init", string(c.Init), 0o755),
	}
	for _, m := range c.Modules {
		if isFake(m.Data) {
			return nil, fmt.Errorf("%s: %w", m.Path, ErrFake)
		}
		if m.Optional {
			list += modules.Optional
		}
		list += m.Path + "\n"
		members = append(members, cpio.StaticFile(m.Path[1:], string(m.Data), 0o644))
	}
	if _, err := modules.ParseList(list); err != nil {
		return nil, err
	}
	members = append(members, cpio.StaticFile(modules.ListPath[1:], list, 0o644))
	members = append(members, extra...)
	members = append(members, folders(members)...)
	sort.Slice(members, func(i, j int) bool { return members[i].Name < members[j].Name })
	for i := 1; i < len(members); i++ {
		if members[i].Name == members[i-1].Name {
			return nil, fmt.Errorf("%s: %w", members[i].Name, ErrDuplicate)
		}
	}
	for i := range members {
		members[i].MTime, members[i].UID, members[i].GID, members[i].NLink = 0, 0, 0, 1
	}
	return members, nil
}

// isFake reports whether a module is the provider of false reports that tests
// load (initramfs/oracle/fixtures/faketsm). The kernel's build writes a
// module's own name into it, whatever its file is called.
func isFake(module []byte) bool { return bytes.Contains(module, []byte("name=fake_tsm\x00")) }

func folders(members []cpio.Record) []cpio.Record {
	var out []cpio.Record
	seen := make(map[string]bool)
	for _, m := range members {
		for dir := path.Dir(m.Name); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			out = append(out, cpio.Directory(dir, 0o755))
		}
	}
	return out
}
