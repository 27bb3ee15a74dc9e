package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
)

// The two kinds of release, as users know them.
const (
	injected = "SEV and SEV-ES"
	attested = "SEV-SNP"
)

// The annotations of options that are for one of them.
const (
	isFor    = "cocoroot_for"
	isNeeded = "cocoroot_needed"
)

// only says that options are for one kind of release.
func only(c *cobra.Command, kind string, names ...string) {
	for _, name := range names {
		if err := c.Flags().SetAnnotation(name, isFor, []string{kind}); err != nil {
			panic(err) // there is no such option
		}
	}
}

// needFor is only for options without which that kind cannot be had.
func needFor(c *cobra.Command, kind string, names ...string) {
	only(c, kind, names...)
	for _, name := range names {
		c.Flags().SetAnnotation(name, isNeeded, nil)
	}
}

// either returns what runs one of the two, by the kind of release that the options
// are for.
func either(inject, attest func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		kind, err := chosen(c)
		switch {
		case err != nil:
			return err
		case kind == attested:
			return attest(c, args)
		}
		return inject(c, args)
	}
}

// chosen returns the kind of release that the options are for. It is what they
// say, and never guessed.
func chosen(c *cobra.Command) (kind string, err error) {
	var first string
	lacks := map[string][]string{}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		of := f.Annotations[isFor]
		if of == nil {
			return
		}
		_, needed := f.Annotations[isNeeded]
		switch {
		case !f.Changed && needed:
			lacks[of[0]] = append(lacks[of[0]], "--"+f.Name)
		case !f.Changed:
		case kind == "":
			kind, first = of[0], f.Name
		case kind != of[0]:
			err = fault.Usagef("--%s is for %s, and --%s for %s", first, kind, f.Name, of[0])
		}
	})
	if kind == "" && err == nil {
		err = fault.Usagef("%s needs %s for %s, or %s for %s", c.CommandPath(), listed(lacks[injected]), injected, listed(lacks[attested]), attested)
	}
	if err == nil {
		err = missingOptions(lacks[kind]...)
	}
	return kind, err
}
