package inspect

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"cocoroot/initramfs/files"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/secret/table"
)

// MaxTable bounds a table in bytes. LAUNCH_SECRET takes 16 KiB; a file may be
// longer, to be told so. More than 64 KiB many systems would not lock.
const MaxTable = 32 << 10

// Table is a listing of a secret table, for people and as JSON.
type Table struct {
	Size       int           `json:"size"`
	Length     int           `json:"length"`
	Area       int           `json:"area"`
	Convention string        `json:"convention"`
	Inside     int           `json:"padding_counted"`
	Outside    int           `json:"padding_not_counted"`
	Entries    []entryReport `json:"entries"`
	Warnings   []string      `json:"warnings"`
	Fault      string        `json:"fault,omitempty"`
	Effect     string        `json:"effect"`
}

// entryReport says of an entry whatever is not secret.
type entryReport struct {
	GUID    efi.GUID `json:"guid"`
	Name    string   `json:"name,omitempty"`
	Offset  int      `json:"offset"`
	Size    int      `json:"size"`
	Deleted bool     `json:"deleted,omitempty"`
	NUL     bool     `json:"ends_in_nul"`
	Newline bool     `json:"ends_in_newline"`
	Data    []byte   `json:"data,omitempty"` // only when asked for
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

// inspectSecretTable goes by the table's GUID. The table stays in locked
// memory; a listing of it shows no secret unless asked to.
func inspectSecretTable(s *subject, r *Report) (bool, error) {
	if !table.IsTable(s.head.Bytes()) {
		return false, nil
	}
	r.Kind, r.title = "secret_table", "a table of secrets, in clear"
	if s.size > MaxTable {
		r.problem("%d bytes: the table is longer than LAUNCH_SECRET takes", s.size)
		return true, nil
	}
	s.table = s.head
	if s.size > inspectHead {
		var err error
		if s.table, err = files.ReadSecret(s.path, MaxTable); err != nil {
			return false, err
		}
	}
	l := table.Inspect(s.table.Bytes(), s.Area)
	r.Details = NewTable(l, s.Area, s.ShowSecrets)
	if l.Fault != nil {
		r.problem("%v", l.Fault)
		r.hint = Effect(l.Fault)
	}
	return true, nil
}

// NewTable returns what is to be shown of a listing, the secrets only with show.
func NewTable(l table.Listing, area int, show bool) Table {
	r := Table{Size: l.Size, Length: l.Length, Area: area, Inside: l.Inside, Outside: l.Outside,
		Convention: l.Convention(), Entries: []entryReport{}, Warnings: []string{}, Effect: Effect(l.Fault)}
	if l.Fault != nil {
		r.Fault = l.Fault.Error()
	}
	if !l.PaddingZero {
		r.Warnings = append(r.Warnings, "the padding is not zero")
	}
	for _, e := range l.Entries {
		entry := entryReport{GUID: e.GUID, Name: table.NameOf(e.GUID), Offset: e.Offset, Size: len(e.Data),
			Deleted: e.Deleted(), NUL: e.EndsInNUL(), Newline: e.EndsInNewline()}
		if show {
			entry.Data = e.Data
		}
		r.Entries = append(r.Entries, entry)
		r.Warnings = append(r.Warnings, entryWarnings(e)...)
	}
	return r
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

// Print prints the listing, some lines of text.
func (r Table) Print(w io.Writer) {
	fmt.Fprintf(w, "table: %d bytes, length %d, for an area of %d\n", r.Size, r.Length, r.Area)
	if r.Length > 0 {
		fmt.Fprintf(w, "writer: %s\n", r.Convention)
	}
	for _, e := range r.Entries {
		fmt.Fprintf(w, "entry: %s, %d bytes", e.GUID, e.Size)
		if e.NUL {
			fmt.Fprint(w, ", ends in NUL")
		}
		if e.Newline {
			fmt.Fprint(w, ", ends in a newline")
		}
		if e.Name != "" {
			fmt.Fprintf(w, ": %s", e.Name)
		}
		fmt.Fprintln(w)
		if e.Data != nil {
			form := "%x"
			if utf8.Valid(e.Data) {
				form = "%q"
			}
			fmt.Fprintf(w, "  secret: "+form+"\n", e.Data)
		}
	}
	for _, t := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", t)
	}
	fmt.Fprintf(w, "effect: %s\n", r.Effect)
}
