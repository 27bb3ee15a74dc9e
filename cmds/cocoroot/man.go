//go:build man

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra/doc"
)

// main writes the man pages into a folder: go run -tags man ./cmds/cocoroot DIR.
// It is not linked into the tool.
func main() {
	root := new(app).root()
	root.DisableAutoGenTag = true
	header := doc.GenManHeader{Section: "1", Source: "cocoroot", Manual: "cocoroot"} // the date is SOURCE_DATE_EPOCH
	err := os.MkdirAll(os.Args[1], 0o755)
	if err == nil {
		err = doc.GenManTree(root, &header, os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
