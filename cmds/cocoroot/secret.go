package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release"
)

func (a *app) secret() *cobra.Command {
	return group("secret", "build the table of secrets, the session with a platform, the packet for a launch", "",
		a.secretBuild(), a.secretInspect(), a.secretSession(), a.secretPacket())
}

func (a *app) secretBuild() *cobra.Command {
	c := verb("build GUID=FILE… -o TABLE", "build the table of secrets that is injected",
		"  cocoroot secret build 736869e5-84f0-4973-92ec-06879ce3da0b=image.key -o table", cobra.ArbitraryArgs)
	flags := c.Flags()
	out := flags.StringP("output", "o", "", "where to write the table, which holds the secrets in clear (mode 0600)")
	firmware := flags.String("firmware", "", "the firmware that will get the table (default: OVMF AmdSev's area of 3072 bytes)")
	force := flags.Bool("force", false, "replace an existing file")
	need(c, "output")
	c.RunE = func(_ *cobra.Command, pairs []string) error { return a.writeTable(pairs, *out, *firmware, *force) }
	return c
}

func (a *app) writeTable(pairs []string, out, firmware string, force bool) error {
	area, err := release.TableArea(firmware)
	if err != nil {
		return err
	}
	table, err := release.BuildTable(a.warn, pairs, area)
	if err != nil {
		return err
	}
	defer table.Close()
	if err := files.Write(force, files.Secret(out, table.Bytes())); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: %s, %d of %d bytes\n", out, count(len(pairs), "entry", "entries"), len(table.Bytes()), area)
	return nil
}
