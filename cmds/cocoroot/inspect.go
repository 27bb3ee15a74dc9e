package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/vm"
	"cocoroot/unlock/secret/table"
)

// inspectOptions are the options of both verbs.
type inspectOptions struct {
	firmware     *string
	show, asJSON bool
}

// inspecting returns a verb that says what its argument is.
func inspecting(use, brief, example string, run func(path string, area int, o inspectOptions) error) *cobra.Command {
	var o inspectOptions
	c := verb(use, brief, example, takes(1, 1, "one argument, the file"))
	flags := c.Flags()
	o.firmware = tableFirmware(flags)
	flags.BoolVar(&o.show, "show-secrets", false, "for a secret table: print the secrets too")
	flags.BoolVar(&o.asJSON, "json", false, "print JSON")
	c.RunE = func(_ *cobra.Command, args []string) error {
		area, err := release.TableArea(*o.firmware)
		if err != nil {
			return err
		}
		return run(args[0], area, o)
	}
	return c
}

func (a *app) inspect() *cobra.Command {
	return inspecting("inspect FILE", "say what a file is and what is wrong with it, without secrets", "  cocoroot inspect image",
		func(path string, area int, o inspectOptions) error {
			if isFolder(path) {
				return a.inspectFolder(path, area, o)
			}
			r, err := inspect.File(path, inspect.Options{Own: a.own, Area: area, ShowSecrets: o.show})
			if err != nil {
				return err
			}
			defer r.Close()
			if r.Foreign != nil {
				a.warn("%s", foreign(r.Foreign))
			}
			a.print(r, o.asJSON)
			return r.Err()
		})
}

// inspectFolder says what the files are that a guest's host gets.
func (a *app) inspectFolder(path string, area int, o inspectOptions) error {
	f, err := vm.Open(path)
	if err != nil {
		return err
	}
	all := map[string]*inspect.Report{}
	for _, name := range []string{vm.Firmware, vm.Kernel, vm.Initrd, vm.Cmdline, vm.Image, vm.Manifest} {
		r, openErr := inspect.File(f.At(name), inspect.Options{Own: a.own, Area: area})
		if openErr != nil {
			return openErr
		}
		defer r.Close()
		if all[name] = r; !o.asJSON {
			r.Print(a.stdout)
		}
		err = cmp.Or(err, r.Err())
	}
	if o.asJSON {
		printJSON(a.stdout, all)
	}
	return err
}

func (a *app) secretInspect() *cobra.Command {
	return inspecting("inspect TABLE", "say what a table holds and what the guest will see of it", "  cocoroot secret inspect table",
		func(path string, area int, o inspectOptions) error {
			buf, err := files.ReadSecret(path, inspect.MaxTable)
			if err != nil {
				return err
			}
			defer buf.Close()
			l := table.Inspect(buf.Bytes(), area)
			a.print(inspect.Table(l, area, o.show), o.asJSON)
			return judgeTable(path, l)
		})
}

// print prints what there is to say of a thing, for people or for a program.
func (a *app) print(r interface{ Print(io.Writer) }, asJSON bool) {
	if asJSON {
		printJSON(a.stdout, r)
	} else {
		r.Print(a.stdout)
	}
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
func printJSON(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	e.Encode(v)
}
