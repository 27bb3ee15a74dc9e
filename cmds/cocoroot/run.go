package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
)

// launchToo are the options of launch that run has.
var launchToo = []string{"forward", "publish", "secret", "timeout", "accel", "qemu"}

func (a *app) run() *cobra.Command {
	var o createOptions
	var simulate bool
	c := verb("run --simulate SOURCE [-- ARGUMENT…]", "make a guest, start it, and remove it when it ends",
		"  cocoroot run --simulate app.tar\n  cocoroot run --simulate app.tar --forward 8080:80", o.sources)
	c.Flags().BoolVar(&simulate, "simulate", false, "launch without SEV; protects nothing")
	o.register(a, c)
	start := a.launch()
	for _, name := range launchToo {
		if f := start.Flags().Lookup(name); f != nil {
			c.Flags().AddFlag(f)
		}
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if !simulate {
			return fault.New(fault.Usage, errors.New("run needs --simulate: on SEV hardware, owner and host are two"),
				"cocoroot create makes a guest for it; --simulate runs this one anywhere, and protects nothing")
		}
		dir, err := os.MkdirTemp("", "cocoroot-run-*") // mode 0700
		if err != nil {
			return err
		}
		files.ScratchOf(c.Context()).Add(dir)
		defer os.RemoveAll(dir)
		o.path = filepath.Join(dir, "vm")
		if !o.given("compression") {
			if err := o.seal.Flags().Set("compression", "1"); err != nil {
				return err
			}
		}
		if err := a.createFolder(c.Context(), o, args); err != nil {
			return err
		}
		if err := launchFolder(start, []string{o.path}, ""); err != nil {
			return err
		}
		return also(c.Context(), start, nil, "simulate", "true")
	}
	return c
}
