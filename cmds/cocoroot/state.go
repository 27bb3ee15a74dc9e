package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/state"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secmem"
)

// stateOrders adds the options with which the owner says what one launch may do
// with its state disks.
func stateOrders(c *cobra.Command, to *[]release.Order) {
	repeated(c, to, "state-create", "order for this launch: `NAME` of a state disk that may be formatted, if it is none yet; may be repeated", release.ParseCreate)
	repeated(c, to, "state-floor", "order for this launch: `NAME=GENERATION`, refuse a state disk that is older; may be repeated", release.ParseFloor)
}

func (a *app) state() *cobra.Command {
	return group("state", "make the key of state disks, and say how new they are", "", a.stateNew(), a.stateGeneration())
}

// keySize is the length of a new key in bytes: as much randomness as goes into the
// keys that are derived from it.
const keySize = 64

func (a *app) stateNew() *cobra.Command {
	c := verb("new -o KEY", "make the key of a guest's state disks", "  cocoroot state new -o data.key", noArgs)
	path := c.Flags().StringP("output", "o", "", "where to write the key (mode 0600); without it what is on the disks is lost")
	need(c, "output")
	c.RunE = func(*cobra.Command, []string) error {
		key, err := secmem.New(keySize)
		if err != nil {
			return err
		}
		defer key.Close()
		rand.Read(key.Bytes())
		if err := files.Write(false, files.Secret(*path, key.Bytes())); errors.Is(err, fs.ErrExist) {
			return fault.Hintf(err, "choose another name: disks that were made with the key open with no other")
		} else if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s: to be injected as %s; keep it secret, and keep it: the disks open with no other\n", *path, policy.DefaultStateKey)
		return nil
	}
	return c
}

func (a *app) stateGeneration() *cobra.Command {
	c := verb("generation [PATH]", "in the guest: write to its state disks, print their generations",
		"  cocoroot state generation\n  cocoroot state generation /var/lib/app", takes(0, 1, "one path"))
	c.Long = "What is in memory is written first. A generation grows with each commit: a lower\none is older. Without PATH, all are printed as --state-floor takes them."
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(_ *cobra.Command, args []string) error {
		all := []state.Mount{{}}
		var err error
		if len(args) == 1 {
			all[0].Path = args[0]
		} else if all, err = state.Mounts(state.StatusFile); err != nil {
			return fault.Hintf(err, "this runs in the guest, where init writes that file; PATH names a mounted state disk")
		}
		for i := range all {
			if all[i].Generation, err = state.Commit(all[i].Path); err != nil {
				return err
			}
		}
		switch {
		case *asJSON:
			printJSON(a.stdout, all)
			return nil
		case len(args) == 1:
			fmt.Fprintln(a.stdout, all[0].Generation)
			return nil
		}
		for _, m := range all {
			fmt.Fprintf(a.stdout, "%s=%d\n", m.Name, m.Generation)
		}
		return nil
	}
	return c
}
