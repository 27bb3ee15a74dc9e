package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/release"
	"cocoroot/unlock/secret/table"
)

func (a *app) inspect() *cobra.Command {
	c := verb("inspect FILE", "say what a file is and what is wrong with it, without secrets", "  cocoroot inspect image", oneArg("the file"))
	flags := c.Flags()
	firmware := flags.String("firmware", "", "for a secret table: the firmware that will get it (default: OVMF AmdSev's area of 3072 bytes)")
	show := flags.Bool("show-secrets", false, "for a secret table: print the secrets too")
	asJSON := flags.Bool("json", false, "print JSON")
	c.RunE = func(_ *cobra.Command, args []string) error { return a.inspectFile(args[0], *firmware, *show, *asJSON) }
	return c
}

func (a *app) inspectFile(path, firmware string, show, asJSON bool) error {
	area, err := release.TableArea(firmware)
	if err != nil {
		return err
	}
	r, err := inspect.File(path, inspect.Options{Own: a.own, Area: area, ShowSecrets: show})
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Foreign != nil {
		a.warn("%s", foreign(r.Foreign))
	}
	if err := a.print(r, asJSON); err != nil {
		return err
	}
	return r.Err()
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
	area, err := release.TableArea(firmware)
	if err != nil {
		return err
	}
	buf, err := files.ReadSecret(path, inspect.MaxTable)
	if err != nil {
		return err
	}
	defer buf.Close()
	l := table.Inspect(buf.Bytes(), area)
	if err := a.print(inspect.Table(l, area, show), asJSON); err != nil {
		return err
	}
	return judgeTable(path, l)
}

// print prints what there is to say of a thing, for people or for a program.
func (a *app) print(r interface{ Print(io.Writer) }, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, r)
	}
	r.Print(a.stdout)
	return nil
}

// judgeTable turns a listing's fault into the tool's error.
func judgeTable(path string, l table.Listing) error {
	if l.Fault == nil {
		return nil
	}
	return fault.Hintf(fmt.Errorf("cannot use the table %s: %w", path, l.Fault), "%s", inspect.Effect(l.Fault))
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
