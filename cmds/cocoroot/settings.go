package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/vm"
)

// notSettings are options of create and run that only the command line has: a file of
// settings says what a guest is, and not what is started here, or which files it gets.
var notSettings = append([]string{"output", "force", "settings", "json", "help", "simulate"}, launchToo...)

// forHardware are settings that run leaves out: it simulates.
var forHardware = []string{"mode", "vcpu-type", "firmware-unchecked", "owner", "channel"}

// applySettings gives options that were not given the values of the file.
func applySettings(c *cobra.Command) error {
	flag := c.Flags().Lookup("settings")
	if flag == nil || !flag.Changed {
		return nil
	}
	path := flag.Value.String()
	all, err := vm.ReadSettings(path)
	if err != nil {
		return fault.Usagef("%w", err)
	}
	for _, s := range all {
		f := c.Flags().Lookup(s.Key)
		fail := func(err error) error {
			return fault.New(fault.Usage, fmt.Errorf("cannot use %s, line %d: %s: %w", path, s.Line, s.Key, err), "cocoroot template settings prints a file with all settings")
		}
		switch {
		case c.Name() == "run" && slices.Contains(forHardware, s.Key):
			continue
		case f == nil || slices.Contains(notSettings, s.Key):
			return fail(errors.New("there is no such setting"))
		case f.Changed:
			continue // on the command line
		case s.Many && !takesMany(f):
			return fail(errors.New("it takes one value"))
		}
		for _, v := range s.Values {
			if err := f.Value.Set(v); err != nil {
				return fail(err)
			}
		}
		f.Changed = true
	}
	return nil
}

// takesMany reports whether an option may be given several times.
func takesMany(f *pflag.Flag) bool {
	_, ok := f.Value.(pflag.SliceValue)
	return ok || f.Annotations[isRepeated] != nil
}
