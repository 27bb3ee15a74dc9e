package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Files of two sizes: the small ones lie in a leaf of the file system's tree, the large
// ones in blocks of their own.
const (
	perKind   = 150
	smallSize = 900
	largeSize = 3 * 4096
)

// stamp begins the blocks of a file.
func stamp(version int, name string) string {
	return fmt.Sprintf("version %d of the file %s\n", version, name)
}

func body(version int, name string, size int) []byte {
	s := []byte(stamp(version, name))
	return bytes.Repeat(s, size/len(s)+1)[:size]
}

// files calls do for each.
func files(folder string, do func(path, name string, size int) error) error {
	for i := range perKind {
		for kind, size := range map[string]int{"small": smallSize, "large": largeSize} {
			name := fmt.Sprintf("%s-%d", kind, i)
			if err := do(filepath.Join(folder, "versions", name), name, size); err != nil {
				return err
			}
		}
	}
	return nil
}

// setVersion gives all files a version: in one commit, or each synced.
func setVersion(folder string, version int, each bool) error {
	if err := os.MkdirAll(filepath.Join(folder, "versions"), 0o755); err != nil {
		return err
	}
	err := files(folder, func(path, name string, size int) error {
		if each {
			return writeSynced(path, body(version, name, size))
		}
		return os.WriteFile(path, body(version, name, size), 0o644)
	})
	if err != nil || each {
		return err
	}
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// checkVersions reads all files. Each has one version as a whole, or cannot be read.
func checkVersions(folder string) error {
	counts := make(map[string]int)
	err := files(folder, func(path, name string, size int) error {
		counts[name[:5]+" "+classify(path, name, size)]++
		return nil
	})
	for what, n := range counts {
		fmt.Printf("boot-test: count %s: %d\n", what, n)
	}
	return err
}

func classify(path, name string, size int) string {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EUCLEAN):
		return "refused"
	case err != nil:
		return err.(*os.PathError).Err.Error()
	}
	for version := range 10 {
		if bytes.Equal(b, body(version, name, size)) {
			return fmt.Sprint("version ", version)
		}
	}
	return "WRONG"
}
