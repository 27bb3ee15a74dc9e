package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release"
	"cocoroot/unlock/secret/table"
)

func (a *app) secret() *cobra.Command {
	return group("secret", "make a table of secrets, a session with a platform, a packet", "",
		a.secretBuild(), a.secretInspect(), a.secretSession(), a.secretPacket())
}

// tableFirmware adds the option for the firmware that a table has to fit.
func tableFirmware(flags *pflag.FlagSet) *string {
	return flags.String("firmware", "", "for a secret table: the firmware that will get it (default: OVMF AmdSev's area of 3072 bytes)")
}

func (a *app) secretBuild() *cobra.Command {
	var o output
	var with release.Contents
	c := verb("build GUID=FILE… -o TABLE", "build the table of secrets that is injected",
		"  cocoroot secret build disk=image.key -o table", cobra.ArbitraryArgs)
	c.Long = "The entry disk is the image's key, and the entry state that of the state disks;\nothers go by their GUIDs."
	o.register(c, "where to write the table, which holds the secrets in clear (mode 0600)")
	stateOrders(c, &with.Orders)
	firmware := tableFirmware(c.Flags())
	c.RunE = func(_ *cobra.Command, pairs []string) error {
		area, err := release.TableArea(*firmware)
		if err != nil {
			return err
		}
		with.Pairs = pairs
		t, err := release.BuildTable(a.warn, with, area)
		if err != nil {
			return err
		}
		defer t.Close()
		if err := files.Write(o.force, files.Secret(o.path, t.Bytes())); err != nil {
			return err
		}
		n := len(table.Inspect(t.Bytes(), area).Entries)
		fmt.Fprintf(a.stdout, "%s: %s, %d of %d bytes\n", o.path, count(n, "entry", "entries"), len(t.Bytes()), area)
		return nil
	}
	return c
}
