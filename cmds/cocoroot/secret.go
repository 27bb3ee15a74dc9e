package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release"
)

func (a *app) secret() *cobra.Command {
	return group("secret", "build the table of secrets, the session with a platform, the packet for a launch", "",
		a.secretBuild(), a.secretInspect(), a.secretSession(), a.secretPacket())
}

// tableFirmware adds the option for the firmware that a table has to fit.
func tableFirmware(flags *pflag.FlagSet) *string {
	return flags.String("firmware", "", "for a secret table: the firmware that will get it (default: OVMF AmdSev's area of 3072 bytes)")
}

func (a *app) secretBuild() *cobra.Command {
	var o output
	c := verb("build GUID=FILE… -o TABLE", "build the table of secrets that is injected",
		"  cocoroot secret build 736869e5-84f0-4973-92ec-06879ce3da0b=image.key -o table", cobra.ArbitraryArgs)
	o.register(c, "where to write the table, which holds the secrets in clear (mode 0600)")
	firmware := tableFirmware(c.Flags())
	c.RunE = func(_ *cobra.Command, pairs []string) error {
		area, err := release.TableArea(*firmware)
		if err != nil {
			return err
		}
		table, err := release.BuildTable(a.warn, pairs, area)
		if err != nil {
			return err
		}
		defer table.Close()
		if err := files.Write(o.force, files.Secret(o.path, table.Bytes())); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s: %s, %d of %d bytes\n", o.path, count(len(pairs), "entry", "entries"), len(table.Bytes()), area)
		return nil
	}
	return c
}
