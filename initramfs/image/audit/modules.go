package audit

import (
	"fmt"
	"io/fs"
)

// HasModules reports whether anything lies where kernel modules do.
func HasModules(fsys fs.ReadLinkFS) (bool, error) {
	r := &root{fs: fsys}
	found := len(r.list("lib/modules")) > 0 || len(r.list("usr/lib/modules")) > 0
	if r.err != nil {
		return false, fmt.Errorf("cannot look for kernel modules: %w", r.err)
	}
	return found, nil
}
