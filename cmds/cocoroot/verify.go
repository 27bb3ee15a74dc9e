package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/verify"
)

func (a *app) verify() *cobra.Command {
	var manifestFile, cmdlineFile, keyFile string
	var asJSON bool
	c := verb("verify {FOLDER|IMAGE --manifest F|--cmdline-file F [--key-file F]}", "check every block of an image against the measured root hash",
		"  cocoroot verify vm\n  cocoroot verify image --manifest image.manifest.json", takes(1, 1, "one argument, the image or a guest's folder"))
	flags := c.Flags()
	flags.StringVar(&manifestFile, "manifest", "", "manifest that cocoroot seal wrote, from where you trust it")
	flags.StringVar(&cmdlineFile, "cmdline-file", "", "command line that is measured")
	flags.StringVar(&keyFile, "key-file", "", "key or passphrase: check also that it opens the image, and what file system is in it")
	flags.BoolVar(&asJSON, "json", false, "print the result as JSON; progress as JSON on standard error, one object a line")
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		image := args[0]
		if isFolder(image) && manifestFile+cmdlineFile == "" {
			if image, manifestFile, keyFile, err = verifyFolder(image); err != nil {
				return err
			}
		}
		return a.verifyImage(c.Context(), image, manifestFile, cmdlineFile, keyFile, asJSON)
	}
	return c
}

func (a *app) verifyImage(ctx context.Context, image, manifestFile, cmdlineFile, keyFile string, asJSON bool) error {
	if manifestFile == "" && cmdlineFile == "" {
		if _, err := os.Stat(image); err != nil {
			return fault.Usagef("cannot read %s: %w", image, errors.Unwrap(err))
		}
		return fault.New(fault.Usage, errors.New("there is nothing to verify against: give one of --manifest and --cmdline-file"),
			fmt.Sprintf("take the manifest from where you sealed (%s.manifest.json), not from where the image was: who changes the one can change the other", image))
	}
	_, p, err := readReference(manifestFile, cmdlineFile)
	if err != nil {
		return err
	}
	bar := a.newProgress()
	bar.Begins("verifying")
	v, result := verify.Image(ctx, image, p, keyFile, bar.At)
	bar.end()
	if code := fault.Code(result); asJSON && (code == fault.OK || code == fault.Tampered) {
		printJSON(a.stdout, v)
	}
	if asJSON || result != nil {
		return result
	}
	fmt.Fprintf(a.stdout, "%s: every one of %d bytes is measured by %s\n", image, v.Size, v.RootHash)
	if l := v.LUKS; l != nil {
		fmt.Fprintf(a.stdout, "%s: the key opens it (LUKS2 %s, %s): %s of %d bytes\n", image, l.UUID, l.KDF, l.Filesystem, l.FilesystemSize)
	}
	if v.Superblock != "ok" {
		a.warn("%s: %s; the guest does not read it, veritysetup may", image, v.Superblock)
	}
	if v.Rest > 0 {
		a.warn("%s: %d bytes after the image are not measured, and the guest does not read them", image, v.Rest)
	}
	return nil
}
