package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret/table"
)

// amdSevArea is the secret area in bytes of OVMF's AmdSev build
// (OvmfPkg/AmdSev/AmdSevX64.fdf); --firmware reads another one's.
const amdSevArea = 0xc00

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
	area, err := tableArea(firmware)
	if err != nil {
		return err
	}
	table, err := buildTable(a, pairs, area)
	if err != nil {
		return err
	}
	defer table.Close()
	if err := files.Write(force, files.Secret(out, table.Bytes())); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: %d entries, %d of %d bytes\n", out, len(pairs), len(table.Bytes()), area)
	return nil
}

// tableArea returns the size in bytes of the area that a table has to fit.
func tableArea(firmware string) (int, error) {
	if firmware == "" {
		return amdSevArea, nil
	}
	return secretArea(firmware)
}

// secretArea returns the size in bytes of a firmware's secret area.
func secretArea(path string) (int, error) {
	image, err := files.ReadImage("firmware", path)
	if err != nil {
		return 0, err
	}
	fw, err := ovmf.Parse(image)
	if err != nil {
		return 0, fmt.Errorf("cannot read the firmware %s: %w", path, err)
	}
	return int(fw.Secret.Size), nil
}

// buildTable reads GUID=FILE pairs into a secret table that fits area bytes.
func buildTable(a *app, pairs []string, area int) (*secmem.Buffer, error) {
	var entries []table.Entry
	defer func() {
		for _, e := range entries {
			e.Data.Close()
		}
	}()
	for _, pair := range pairs {
		name, path, ok := strings.Cut(pair, "=")
		if !ok || path == "" {
			return nil, fault.Usagef("%q is not of the form GUID=FILE", pair)
		}
		g, err := efi.Parse(name)
		if err != nil {
			return nil, fault.Usagef("%q: %w", pair, err)
		}
		data, err := files.ReadSecret(path, area)
		if err != nil {
			return nil, err
		}
		table.WarnOfEnding(a.warn, path, data.Bytes())
		entries = append(entries, table.Entry{GUID: g, Data: data})
	}
	return table.Build(entries, area)
}
