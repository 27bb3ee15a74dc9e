// Package inspect says what a file is, by what is in it, and what is wrong with
// it. It knows the files that go into a launch and those that the owner's tool
// makes, and shows no secret unless asked to.
//
// Every file may come from anyone. It is compared with nothing that is trusted:
// a file without a problem is well-formed, and may still be the wrong one.
package inspect

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/release/snp"
	"cocoroot/unlock/secret/table"
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
	// Details has what is particular to the kind; none when the file could
	// not be read so far.
	Details Fields `json:"details,omitempty"`

	title string // the kind in words
	hint  string // what to do about the first problem

	// Foreign says why a firmware is not ours; nil for ours, and for what is
	// no firmware.
	Foreign error `json:"-"`

	subject *subject
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *Report) add(name string, value any) { r.Details = append(r.Details, Field{name, value}) }

// kind is a kind of file.
type kind struct {
	name, title string
	hint        string // what to do about a problem; may be empty
	is          func(*subject) bool
	// look says what there is to say; nil says nothing. An error is one of
	// reading, not of the content.
	look func(*subject, *Report) error
}

// kinds are in the order in which they are asked: those that know their kind for
// certain come first, those that go by size, text and name last.
func kinds() []kind {
	return []kind{
		{"secret_table", "a table of secrets, in the clear", "", headed(table.IsTable), lookSecretTable},
		{"hashes_table", "a hashes table", "use no table that lacks one of the three: OVMF boots what the table does not name, unverified; QEMU writes a whole one with kernel-hashes=on", headed(measure.IsHashesTable), lookHashesTable},
		{"sealed_image", "a sealed image", "cocoroot seal makes an image that the guest opens", begins("LUKS\xba\xbe", "SKUL\xba\xbe"), lookImage},
		{"state_disk", "a state disk and its key, the host's word until a guest has checked it with its key", "", isState, lookState},
		{"archive", "an initrd", "cocoroot initrd makes one", headed(archive.IsArchive), lookArchive},
		{"kernel", "a Linux kernel (bzImage)", "", headed(IsKernel), lookKernel},
		{"packet", "a packet for one launch", "cocoroot release verify writes it", object("header", "secret"), parsed(packet.Decode, showPacket)},
		{"launch_report", "a launch report, the host's word until cocoroot release verify has checked it", "cocoroot release collect writes it", object("api_major"), parsed(release.ParseReport, showReport)},
		{"snp_packet", "a packet for one boot of an SEV-SNP guest", "cocoroot release verify writes it", object("transcript", "answer"), parsed(snp.ParsePacket, nil)},
		{"snp_report", "what an SEV-SNP guest asks, the host's word until cocoroot release verify has checked it", "cocoroot release collect writes it", object("request"), parsed(snp.ParseReport, nil)},
		{"challenge", "an owner's challenge for one SEV-SNP guest", "", object("challenge", "expires"), nil},
		{"manifest", "a sealed image's manifest, which nobody believes: what counts is the command line", "cocoroot seal writes it", object("luks_uuid"), parsed(manifest.Parse, showManifest)},
		{"firmware", "OVMF firmware", "--firmware takes OVMF's AmdSev build; ./build.sh firmware gets it", isFirmware, lookFirmware},
		{"sev_certificates", "certificates of an SEV platform", "cocoroot release platform and sevctl export write them", isCertificates, lookCertificates},
		{"packet_header", "a LAUNCH_SECRET packet header", "", isPacketHeader, lookPacketHeader},
		{"packet_secret", "the encrypted secret of a packet, by its name and size", "", isPacketSecret, nil},
		{"session_blob", "a session blob for LAUNCH_START, by its size alone", "", func(s *subject) bool { return s.binary64(session.BlobSize) != nil }, nil},
		{"key", "a key as cocoroot seal makes it: SECRET", "", isKey, lookUse("cocoroot verify IMAGE --key-file", "cocoroot secret build GUID=FILE")},
		{"state_key", "a key of state disks, by its size alone: SECRET", "", func(s *subject) bool { return s.size == 64 && !utf8.Valid(s.head.Bytes()) }, lookUse("cocoroot secret build state=FILE")},
		{"transport_key", "a session's transport key (TIK or TEK), by its size alone: SECRET", "", func(s *subject) bool { return s.size == session.KeySize }, lookUse("cocoroot release verify REPORT --tik, --tek")},
		{"owner_key", "an owner's key, by its size alone: SECRET", "", func(s *subject) bool { return s.size == ed25519.SeedSize }, lookUse("cocoroot release verify REPORT --owner")},
		{"owner_public", "the public half of an owner's key", "", begins("ed25519:"), lookUse("cocoroot seal --owner")},
		{"launch_script", "a script that starts a guest on SEV hardware, from cocoroot template", "", begins("#!/bin/sh\n# Starts the guest under QEMU with "), nil},
		{"libvirt_domain", "a description of a guest for libvirt, from cocoroot template", "", begins("<!-- sev, libvirt", "<!-- sev-es, libvirt", "<!-- SEV-SNP, libvirt"), nil},
		{"command_line", "a kernel command line", "cocoroot seal writes one, and --append adds to it", isCmdline, lookCmdline},
	}
}

const knownKinds = "known are: firmware (OVMF), kernel, archive (cpio; plain, gzip or zstd), command line, hashes table, " +
	"secret table, key, transport key, sealed image, manifest, packet, its header and its secret, launch report, session blob, " +
	"challenge, owner's key, state disk, SEV certificates, launch script, libvirt domain"

// ErrKind is returned for a file of no known kind.
var ErrKind = errors.New("it is none of the files that this program knows")

// Options are what a Report depends on beside the file.
type Options struct {
	Own         ovmf.Own // the firmware that is ours
	Area        int      // bytes that a secret table has to fit
	ShowSecrets bool     // list what is in a secret table
}

// File says what a file or block device is. A file that is damaged is no error
// here, but has Problems; ErrKind is returned for one of no known kind. The
// caller closes the report.
func File(path string, o Options) (_ *Report, err error) {
	s, err := openSubject(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.Options = o
	for _, k := range kinds() {
		if !k.is(s) {
			continue
		}
		r := &Report{File: path, Kind: k.name, Size: s.size, Warnings: []string{}, Problems: []string{}, title: k.title, hint: k.hint, subject: s}
		if k.look != nil {
			err = k.look(s, r)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot inspect %s: %w", path, err)
		}
		return r, nil
	}
	switch {
	case s.err != nil:
		return nil, fmt.Errorf("cannot inspect %s: %w", path, s.err)
	case files.IsQcow2(s.head.Bytes()):
		return nil, fmt.Errorf("cannot inspect %s: %w: %s", path, ErrKind, files.Raw)
	}
	return nil, fault.Hintf(fmt.Errorf("cannot inspect %s: %w", path, ErrKind), "%s", knownKinds)
}

// Close forgets what the report shows of a secret table.
func (r *Report) Close() { r.subject.close() }

// Print prints the report, some lines of text.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s, %d bytes\n", printable(r.File), r.title, r.Size)
	r.Details.Print(w)
	for _, t := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", printable(t))
	}
	for _, t := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", printable(t))
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
