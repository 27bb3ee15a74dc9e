package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/snp"
)

func (a *app) owner() *cobra.Command {
	return group("owner", "make the key with which an owner answers SEV-SNP guests", "", a.ownerNew())
}

func (a *app) ownerNew() *cobra.Command {
	c := verb("new -o NAME", "make an owner's key, for seal --owner and release", "  cocoroot owner new -o me", noArgs)
	flags := c.Flags()
	name := flags.StringP("output", "o", "", "start of the files' names, `NAME`: NAME.key, which stays with you (mode 0600), and NAME.pub")
	force := flags.Bool("force", false, "replace existing files; guests that were sealed for the old key cannot be answered any more")
	need(c, "output")
	c.RunE = func(*cobra.Command, []string) error {
		o, err := snp.NewOwner()
		if err != nil {
			return err
		}
		defer o.Close()
		all := o.Files(*name)
		if err := files.Write(*force, all...); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s: keep it secret: whoever has it can bring his own secrets to your guests\n", all[0].Path)
		fmt.Fprintf(a.stdout, "%s: for cocoroot seal --owner\n", all[1].Path)
		return nil
	}
	return c
}

// readOwner reads the private half, and warns where others can.
func (a *app) readOwner(path string) (*snp.Owner, error) {
	o, err := snp.ReadOwner(path)
	if err == nil {
		a.warnOthers(path, "whoever has it can answer your guests")
	}
	return o, err
}

// warnOthers warns of a secret file that others may use.
func (a *app) warnOthers(path, then string) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
		a.warn("others may use %s (mode %04o): %s", path, fi.Mode().Perm(), then)
	}
}
