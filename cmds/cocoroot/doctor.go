package main

import (
	"errors"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/doctor"
	"cocoroot/initramfs/fault"
)

func (a *app) doctor() *cobra.Command {
	c := verb("doctor", "say what works on this machine, and what to do about the rest", "  cocoroot doctor", noArgs)
	c.Long = "The exit code is 0 if a simulated launch would work here, and 1 otherwise."
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		m, err := doctor.Here(a.own)
		if err != nil {
			return err
		}
		r := m.Check(c.Context())
		if a.print(r, *asJSON); r.Simulates {
			return nil
		}
		return fault.Hintf(errors.New("a simulated launch would not work here"), "the lines with \"no\" say what to do about it")
	}
	return c
}
