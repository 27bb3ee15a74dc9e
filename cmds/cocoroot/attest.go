//go:build !snptest

package main

import "github.com/spf13/cobra"

// registerAttest adds nothing: only a build for tests plays SEV-SNP.
func (o *launchOptions) registerAttest(*cobra.Command) {}
