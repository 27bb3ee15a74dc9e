package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
)

// The two kinds of release, as users know them.
const (
	injected = "SEV and SEV-ES"
	attested = "SEV-SNP"
)

// isFor is the annotation of options that are for one of them: the kind and, of
// those without which that cannot be had, isNeeded.
const (
	isFor    = "cocoroot_for"
	isNeeded = "needed"
)

// only says that options are for one kind of release.
func only(c *cobra.Command, kind string, names ...string) { markFor(c, names, kind) }

// needFor is only for options without which that kind cannot be had.
func needFor(c *cobra.Command, kind string, names ...string) { markFor(c, names, kind, isNeeded) }

func markFor(c *cobra.Command, names []string, marks ...string) {
	for _, name := range names {
		if err := c.Flags().SetAnnotation(name, isFor, marks); err != nil {
			panic(err) // there is no such option
		}
	}
}

// either returns what runs one of the two, by the kind of release that the options
// are for. It is what they say, and never guessed.
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

// chosen returns the kind of release that the options are for.
func chosen(c *cobra.Command) (kind string, err error) {
	var first string
	lacks := map[string][]string{}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		marks := f.Annotations[isFor]
		switch {
		case marks == nil:
		case !f.Changed && slices.Contains(marks, isNeeded):
			lacks[marks[0]] = append(lacks[marks[0]], "--"+f.Name)
		case !f.Changed:
		case kind == "":
			kind, first = marks[0], f.Name
		case kind != marks[0]:
			err = fault.Usagef("--%s is for %s, and --%s for %s", first, kind, f.Name, marks[0])
		}
	})
	switch {
	case err != nil:
		return "", err
	case kind == "":
		return "", fault.Usagef("%s needs %s for %s, or %s for %s", c.CommandPath(), listed(lacks[injected]), injected, listed(lacks[attested]), attested)
	}
	return kind, missingOptions(lacks[kind]...)
}
