package main

import (
	"cmp"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// built is the source's version as git describes it. The linker sets it, where
// Go itself is not to look.
var built string

// version returns what this program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return cmp.Or(built, "of an unknown version")
	}
	text := built
	if v := info.Main.Version; text == "" && v != "(devel)" {
		text = v
	}
	return fmt.Sprintf("%s (%s)", cmp.Or(text, "of an unknown version"), info.GoVersion)
}

func (a *app) version() *cobra.Command {
	c := verb("version", "say which version this is, and which firmware is its own", "  cocoroot version", noArgs)
	c.RunE = func(*cobra.Command, []string) error {
		fmt.Fprintf(a.stdout, "cocoroot %s\nfirmware: %s\n", version(), cmp.Or(a.own.Version(), "none of its own"))
		return nil
	}
	return c
}
