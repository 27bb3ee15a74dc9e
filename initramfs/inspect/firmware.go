package inspect

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
)

// isFirmware goes by the footer at the end of the image.
func isFirmware(s *subject) bool {
	image := s.whole(files.MaxImage)
	if image == nil {
		return false
	}
	_, err := ovmf.Parse(image)
	return !errors.Is(err, ovmf.ErrNoFooter) || endsInResetVector(image)
}

// endsInResetVector reports whether an image without a footer is a firmware
// anyway: OVMF's last 16 bytes begin with NOPs and a jump.
func endsInResetVector(image []byte) bool {
	const least = 64 << 10 // bytes, that it is none by chance
	return len(image) >= least && bytes.HasPrefix(image[len(image)-16:], []byte{0x90, 0x90, 0xe9})
}

func lookFirmware(s *subject, r *Report) error {
	f, err := measure.NewFirmware(s.whole(files.MaxImage))
	if err != nil {
		r.problem("%v", err)
		return s.err
	}
	fw := f.Footer()
	r.Details = Fields{
		{"address", address(fw.Base())},
		{"sha256", fmt.Sprintf("%x", f.SHA256())},
		{"secret_area", areaText(fw.Secret)},
		{"hashes_area", areaText(fw.Hashes)},
	}
	if fw.ResetAddress != 0 {
		r.add("reset_address", address(uint64(fw.ResetAddress)))
	}
	var sections []string
	for _, s := range fw.Sections {
		sections = append(sections, fmt.Sprintf("%s, %s", s.Type, areaText(s.Area)))
	}
	r.add("metadata_sections", sections)
	whose := "another's"
	if r.Foreign = s.Own.Check(f.SHA256()); r.Foreign == nil {
		whose = strings.TrimSuffix("cocoroot's own, "+s.Own.Version(), ", ")
	}
	r.add("origin", whose)
	judgeFirmware(r, f)
	return nil
}

func address(n uint64) string { return fmt.Sprintf("%#x", n) }

func areaText(a ovmf.Area) string {
	if !a.Present() {
		return "none"
	}
	return fmt.Sprintf("%d bytes at %#x", a.Size, a.Base)
}

// judgeFirmware asks the verb measure what it would make of the firmware.
func judgeFirmware(r *Report, f measure.Firmware) {
	digest := func(mode string, table *measure.HashesTable, features measure.Features) error {
		cpus, err := measure.NewCPUs(1, 1, features)
		if err == nil {
			_, err = measure.Input{Firmware: f, Table: table, CPUs: cpus}.Digest(mode)
		}
		return err
	}
	table := new(measure.HashesTable)
	if err := digest("sev", table, 0); err != nil {
		r.problem("%v", err)
		r.hint = "only OVMF's AmdSev build has room for the hashes of kernel, initrd and command line; ./build.sh firmware gets it"
	}
	if !f.Footer().Secret.Present() {
		r.problem("it has no secret area: LAUNCH_SECRET has nowhere to go")
	}
	if err := digest("sev-es", nil, 0); err != nil {
		r.warn("not for SEV-ES: %v", err)
	}
	if err := digest("sev-snp", table, measure.SNPActive); err != nil {
		r.warn("not for SEV-SNP: %v", err)
	}
}

func lookHashesTable(s *subject, r *Report) error {
	b := s.whole(measure.TableSize)
	if len(b) == measure.TableLength {
		r.warn("without the %d bytes of padding that are measured with it", measure.TableSize-measure.TableLength)
		b = append(b, make([]byte, measure.TableSize-measure.TableLength)...)
	}
	t, err := measure.ParseHashesTable(b)
	if err != nil {
		r.problem("%v, which is DANGEROUS: what has no hash the firmware takes from the host, unverified", err)
		return s.err
	}
	for _, sum := range []struct {
		name    string
		is      [sha256.Size]byte
		nothing []byte
	}{{"kernel", t.Kernel, nil}, {"initrd", t.Initrd, nil}, {"cmdline", t.Cmdline, []byte{0}}} {
		text := hex.EncodeToString(sum.is[:])
		if sum.is == sha256.Sum256(sum.nothing) {
			text += fmt.Sprintf(" (no %s)", sum.name)
		}
		r.add(sum.name, text)
	}
	return nil
}

// Where the fields of a kernel's setup header are, in bytes; numbers are
// little-endian (Linux, Documentation/arch/x86/boot.rst).
const (
	bzSectors   = 0x1f1 // u8, size of the setup in sectors of 512 bytes, without the first
	bzSize      = 0x1f4 // u32, size of what follows the setup, in units of 16 bytes
	bzMagic     = 0x202 // "HdrS"
	bzVersion   = 0x20e // u16, where the version's text is, less 0x200
	bzHeaderEnd = 0x238
	bzPE        = 0x3c // u32, where an EFI program has its header
)

func lookKernel(s *subject, r *Report) error {
	h := s.head.Bytes()
	le := binary.LittleEndian
	pe := le.Uint32(h[bzPE:])
	stub := string(h[:2]) == "MZ" && uint64(pe)+4 <= uint64(len(h)) && string(h[pe:pe+4]) == "PE\x00\x00"
	if at := le.Uint16(h[bzVersion:]); at != 0 {
		b := make([]byte, 256)
		n, err := s.ReadAt(b, int64(at)+0x200)
		if err != nil && err != io.EOF {
			return err
		}
		version, _, _ := strings.Cut(string(b[:n]), "\x00")
		r.add("version", version)
	}
	r.add("efi_stub", stub)
	want := int64(max(1, h[bzSectors]))*512 + 512 + int64(le.Uint32(h[bzSize:]))*16
	if h[bzSectors] == 0 { // as good as 4
		want += 3 * 512
	}
	if s.size < want {
		r.problem("it is cut: its header says %d bytes", want)
	}
	if !stub {
		r.problem("it has no EFI stub (CONFIG_EFI_STUB): OVMF cannot start it")
	}
	return nil
}

// CheckBoot returns an error when a kernel and an initrd are given in the place
// of each other. What cannot be read twice, such as a pipe, is not looked at.
func CheckBoot(kernel, initrd string) error {
	head := func(path string) []byte {
		f, _, err := files.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		b := make([]byte, inspectHead)
		n, _ := f.ReadAt(b, 0)
		return b[:n]
	}
	if IsKernel(head(initrd)) || archive.IsArchive(head(kernel)) {
		return fault.Usagef("%s is not a kernel, or %s is not an initrd: are --kernel and --initrd swapped?", kernel, initrd)
	}
	return nil
}

// IsKernel reports whether a file that begins so is a bzImage.
func IsKernel(head []byte) bool {
	return len(head) >= bzHeaderEnd && string(head[bzMagic:bzMagic+4]) == "HdrS"
}
