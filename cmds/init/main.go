// Command init is the first process of a confidential guest: it unlocks the
// measured image with the injected secret, wipes the secret, and switches
// root into the image.
//
// It takes everything from the measured command line (see README.md for the
// cocoroot.* parameters) and has no options. There is no shell, no prompt and
// no second, weaker attempt: any failure wipes every secret, prints one FATAL line
// and powers the guest off.
package main

import (
	"fmt"
	"os"

	"cocoroot/unlock/unseal"
)

func main() {
	switch {
	case os.Getpid() == 1:
		new(boot).run()
	case os.Args[0] == unseal.ChildName:
		unseal.Child()
	default:
		fmt.Fprintln(os.Stderr, "cocoroot: error: init runs as the first process of a guest only")
		fmt.Fprintln(os.Stderr, "cocoroot: hint: put it into an archive with cocoroot initrd")
		os.Exit(2)
	}
}
