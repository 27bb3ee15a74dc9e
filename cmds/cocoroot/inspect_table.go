package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/secret/table"
)

// maxTable bounds a table in bytes. LAUNCH_SECRET takes 16 KiB; a file may be
// longer, to be told so. More than 64 KiB many systems would not lock.
const maxTable = 32 << 10

// tableReport is the JSON form of a listing.
type tableReport struct {
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
	Data    []byte   `json:"data,omitempty"` // with --show-secrets alone
}

func (a *app) secretInspect() *cobra.Command {
	c := verb("inspect TABLE", "say what a table holds and what the guest will see of it, without the secrets",
		"  cocoroot secret inspect table", oneArg("the table"))
	flags := c.Flags()
	firmware := flags.String("firmware", "", "the firmware that will get the table (default: OVMF AmdSev's area of 3072 bytes)")
	show := flags.Bool("show-secrets", false, "print the secrets too")
	asJSON := flags.Bool("json", false, "print JSON")
	c.RunE = func(_ *cobra.Command, args []string) error { return a.listTable(args[0], *firmware, *show, *asJSON) }
	return c
}

func (a *app) listTable(path, firmware string, show, asJSON bool) error {
	area, err := tableArea(firmware)
	if err != nil {
		return err
	}
	buf, err := secmem.ReadFile(path, maxTable)
	if err != nil {
		return err
	}
	defer buf.Close()
	l := table.Inspect(buf.Bytes(), area)
	r := reportTable(l, area, show)
	if asJSON {
		if err := printJSON(a.stdout, r); err != nil {
			return err
		}
	} else {
		r.print(a.stdout)
	}
	return judgeTable(path, l)
}

// judgeTable turns a listing's fault into the tool's error.
func judgeTable(path string, l table.Listing) error {
	if l.Fault == nil {
		return nil
	}
	return hinted(fmt.Errorf("cannot use the table %s: %w", path, l.Fault), "%s", effect(l.Fault))
}

// effect says what becomes of a table.
func effect(fault error) string {
	switch {
	case fault == nil:
		return "the guest sees every entry"
	case errors.Is(fault, table.ErrHeader):
		return "the guest's kernel sees no secrets, and says nothing"
	case errors.Is(fault, table.ErrTooBig):
		return "QEMU would write it over the hashes table behind the area, and the guest would not boot"
	case errors.Is(fault, secret.ErrTooMany):
		return "the guest's kernel shows at most 64 entries and says nothing of more, so init refuses so many"
	default:
		return "the guest's kernel refuses the whole table and shows no entry"
	}
}

// inspectSecretTable goes by the table's GUID. The table stays in locked
// memory; a listing of it shows no secret unless asked to.
func inspectSecretTable(s *subject, r *inspection) (bool, error) {
	if !table.IsTable(s.head.Bytes()) {
		return false, nil
	}
	r.Kind, r.title = "secret_table", "a table of secrets, in clear"
	if s.size > maxTable {
		r.problem("%d bytes: the table is longer than LAUNCH_SECRET takes", s.size)
		return true, nil
	}
	s.table = s.head
	if s.size > inspectHead {
		var err error
		if s.table, err = secmem.ReadFile(s.path, maxTable); err != nil {
			return false, err
		}
	}
	l := table.Inspect(s.table.Bytes(), s.area)
	r.Details = reportTable(l, s.area, s.show)
	if l.Fault != nil {
		r.problem("%v", l.Fault)
		r.hint = effect(l.Fault)
	}
	return true, nil
}

func reportTable(l table.Listing, area int, show bool) tableReport {
	r := tableReport{Size: l.Size, Length: l.Length, Area: area, Inside: l.Inside, Outside: l.Outside,
		Convention: l.Convention(), Entries: []entryReport{}, Warnings: []string{}, Effect: effect(l.Fault)}
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

func (r tableReport) print(w io.Writer) {
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

// printLine prints one value, on one line.
func printLine(w io.Writer, v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is of texts and numbers
	}
	w.Write(append(line, '\n'))
}

// printJSON prints one value, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
