package inspect

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/secret/table"
)

// MaxTable bounds a table in bytes. LAUNCH_SECRET takes 16 KiB; a file may be
// longer, to be told so. More than 64 KiB many systems would not lock.
const MaxTable = 32 << 10

// entry says of an entry whatever is not secret.
type entry struct {
	GUID    efi.GUID `json:"guid"`
	Name    string   `json:"name,omitempty"`
	Offset  int      `json:"offset"`
	Size    int      `json:"size"`
	Deleted bool     `json:"deleted,omitempty"`
	NUL     bool     `json:"ends_in_nul"`
	Newline bool     `json:"ends_in_newline"`
	Data    []byte   `json:"data,omitempty"` // only when asked for
}

func (e entry) String() string {
	text := fmt.Sprintf("%s, %d bytes", e.GUID, e.Size)
	if e.NUL {
		text += ", ends in NUL"
	}
	if e.Newline {
		text += ", ends in a newline"
	}
	if e.Name != "" {
		text += ": " + e.Name
	}
	switch {
	case e.Data == nil:
	case utf8.Valid(e.Data):
		text += fmt.Sprintf(", secret: %q", e.Data)
	default:
		text += fmt.Sprintf(", secret: %x", e.Data)
	}
	return text
}

// Effect says what becomes of a table.
func Effect(fault error) string {
	switch {
	case fault == nil:
		return "the guest sees every entry"
	case errors.Is(fault, table.ErrHeader):
		return "the guest's kernel sees no secrets, and says nothing"
	case errors.Is(fault, table.ErrTooBig):
		return "QEMU would write it over the hashes table after the area, and the guest would not boot"
	case errors.Is(fault, secret.ErrTooMany):
		return "the guest's kernel shows at most 64 entries and says nothing of more, so init refuses so many"
	default:
		return "the guest's kernel refuses the whole table and shows no entry"
	}
}

// lookSecretTable keeps the table in locked memory; a listing of it shows no
// secret unless asked to.
func lookSecretTable(s *subject, r *Report) (err error) {
	if s.size > MaxTable {
		r.problem("%d bytes: the table is longer than LAUNCH_SECRET takes", s.size)
		return nil
	}
	if s.table, err = files.ReadSecret(s.path, MaxTable); err != nil {
		return err
	}
	l := table.Inspect(s.table.Bytes(), s.Area)
	r.Details = Table(l, s.Area, s.ShowSecrets)
	if l.Fault != nil {
		r.problem("%v", l.Fault)
		r.hint = Effect(l.Fault)
	}
	return nil
}

// Table returns what is to be shown of a listing, the secrets only with show.
func Table(l table.Listing, area int, show bool) Fields {
	entries, warnings := []entry{}, []string{}
	if !l.PaddingZero {
		warnings = append(warnings, "the padding is not zero")
	}
	for _, e := range l.Entries {
		shown := entry{GUID: e.GUID, Name: table.NameOf(e.GUID), Offset: e.Offset, Size: len(e.Data),
			Deleted: e.Deleted(), NUL: e.EndsInNUL(), Newline: e.EndsInNewline()}
		if show {
			shown.Data = e.Data
		}
		entries = append(entries, shown)
		warnings = append(warnings, entryWarnings(e)...)
	}
	f := Fields{{"size", l.Size}, {"length", l.Length}, {"area", area}, {"convention", l.Convention()},
		{"padding_counted", l.Inside}, {"padding_not_counted", l.Outside}, {"entries", entries}, {"warnings", warnings}}
	if l.Fault != nil {
		f = append(f, Field{"fault", l.Fault.Error()})
	}
	return append(f, Field{"effect", Effect(l.Fault)})
}

func entryWarnings(e table.Listed) []string {
	var all []string
	warn := func(text string) { all = append(all, e.GUID.String()+": "+text) }
	switch {
	case e.Deleted():
		return []string{fmt.Sprintf("byte %d: an entry with the NULL GUID: the kernel skips it and cannot wipe it", e.Offset)}
	case len(e.Data) == 0:
		warn("an empty entry, which is no key")
	}
	if e.EndsInNewline() {
		warn("ends in a newline, which is part of the key")
	}
	if e.HasInnerNUL() {
		warn("has a NUL inside: a reader of C strings would use less than all of it")
	}
	return all
}
