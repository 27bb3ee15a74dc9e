package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"cocoroot/unlock/secret/table"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
)

// amdSevArea is the secret area in bytes of OVMF's AmdSev build
// (OvmfPkg/AmdSev/AmdSevX64.fdf); --firmware reads another one's.
const amdSevArea = 0xc00

func runSecret(ctx context.Context, a *app, _ *pflag.FlagSet, args []string) error {
	return a.choose(ctx, "secret", []command{
		{"build", "GUID=FILE… -o TABLE", "build the table of secrets that is injected", runSecretBuild},
		{"inspect", "TABLE", "say what a table holds and what the guest will see of it, without the secrets", runSecretInspect},
		{"session", "CERTIFICATES… -o NAME", "start a session with a platform: transport keys, session blob, certificate", runSecretSession},
		{"packet", "GUID=FILE… -o NAME", "encrypt a table for one launch whose measurement was checked", runSecretPacket},
	}, args)
}

func runSecretBuild(_ context.Context, a *app, flags *pflag.FlagSet, args []string) error {
	out := flags.StringP("output", "o", "", "where to write the table, which holds the secrets in clear (mode 0600)")
	firmware := flags.String("firmware", "", "the firmware that will get the table (default: OVMF AmdSev's area of 3072 bytes)")
	force := flags.Bool("force", false, "replace an existing file")
	if err := parse(flags, args, "output"); err != nil {
		return err
	}
	area, err := tableArea(*firmware)
	if err != nil {
		return err
	}
	table, err := buildTable(a, flags.Args(), area)
	if err != nil {
		return err
	}
	defer table.Close()

	var files outputs
	defer files.discard()
	f, err := files.create(*out, 0o600, *force)
	if err != nil {
		return err
	}
	if _, err := f.Write(table.Bytes()); err != nil {
		return fmt.Errorf("cannot write %s: %w", *out, err)
	}
	if err := files.commit(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: %d entries, %d of %d bytes\n", *out, flags.NArg(), len(table.Bytes()), area)
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
	image, err := readImage("firmware", path)
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
			return nil, usagef("%q is not of the form GUID=FILE", pair)
		}
		g, err := efi.Parse(name)
		if err != nil {
			return nil, usagef("%q: %w", pair, err)
		}
		data, err := secmem.ReadFile(path, area)
		if err != nil {
			return nil, err
		}
		warnOfEnding(a, path, data.Bytes())
		entries = append(entries, table.Entry{GUID: g, Data: data})
	}
	return table.Build(entries, area)
}

// warnOfEnding warns of white space at the end of a key, which counts. What
// has several lines is no key, but text that ends in a newline by right.
func warnOfEnding(a *app, path string, key []byte) {
	what := secret.Ending(key)
	if what == "" || bytes.ContainsRune(bytes.TrimRight(key, "\r\n\x00"), '\n') {
		return
	}
	fmt.Fprintf(a.stderr, "cocoroot: warning: %s ends in %s, which is part of the secret; printf writes a file without, echo does not\n", path, what)
}
