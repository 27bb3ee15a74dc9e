package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

var errOpen = errors.New("the kernel cannot be kept from loading more modules")

// Close has the kernel load no more modules, and unload none, until the next
// boot. Nobody who gets hold of the image's root can add code to the kernel in
// this way; other ways it does not close.
func Close() error { return closeIn("/proc") }

// closeIn writes the switch (Documentation/admin-guide/sysctl/kernel.rst,
// modules_disabled) and reads it back. A kernel without modules has neither
// switch nor list.
func closeIn(proc string) error {
	path := filepath.Join(proc, "sys/kernel/modules_disabled")
	err := os.WriteFile(path, []byte("1\n"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(proc, "modules")); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	if string(text) != "1\n" {
		return fmt.Errorf("%w: %s is %.8q", errOpen, path, text)
	}
	return nil
}
