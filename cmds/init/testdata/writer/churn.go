package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// packages and files is how much churn installs.
const packages, files = 24, 40

// churn does what a package manager does, in a folder of the image and in a new
// one: it unpacks beside and renames over, with an fsync, keeps a hard link of
// what was, replaces files of the image, removes some and whole folders of it,
// and makes a folder again that it removed.
func churn(image, fresh string) error {
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return err
	}
	for _, step := range []func(string, string) error{install, upgrade, replace, remove} {
		if err := step(image, fresh); err != nil {
			return err
		}
	}
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	return inspect(image, fresh)
}

func file(dir string, p, f int) string { return filepath.Join(dir, fmt.Sprintf("p%d/lib/f%d", p, f)) }

func text(p, f, version int) []byte {
	line := fmt.Appendf(nil, "package %d, file %d, version %d\n", p, f, version)
	return bytes.Repeat(line, 1+(p*files+f)*7%400) // up to 13 kB
}

func each(do func(p, f int) error) error {
	for p := range packages {
		for f := range files {
			if err := do(p, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// put writes a file as dpkg does.
func put(path string, data []byte) error {
	f, err := os.Create(path + ".dpkg-new")
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o640), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".dpkg-new", path)
}

func install(_, fresh string) error {
	return each(func(p, f int) error {
		if err := os.MkdirAll(filepath.Dir(file(fresh, p, f)), 0o755); err != nil {
			return err
		}
		return put(file(fresh, p, f), text(p, f, 1))
	})
}

func upgrade(_, fresh string) error {
	return each(func(p, f int) error {
		path := file(fresh, p, f)
		if err := os.Link(path, path+".dpkg-tmp"); err != nil {
			return err
		}
		if err := put(path, text(p, f, 2)); err != nil {
			return err
		}
		return os.Remove(path + ".dpkg-tmp")
	})
}

// replace puts new files over those of the image.
func replace(image, _ string) error {
	return filepath.WalkDir(image, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return put(path, []byte("replaced "+path))
	})
}

func remove(image, fresh string) error {
	if err := os.RemoveAll(filepath.Join(image, "gone")); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(image, "removed")); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(image, "again")), os.Mkdir(filepath.Join(image, "again"), 0o755),
		os.WriteFile(filepath.Join(image, "again/new"), []byte("new"), 0o644)); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(fresh, "p0"))
}

func inspect(image, fresh string) error {
	if err := each(func(p, f int) error {
		got, err := os.ReadFile(file(fresh, p, f))
		if p == 0 && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && !bytes.Equal(got, text(p, f, 2)) {
			err = fmt.Errorf("%s is not what was written", file(fresh, p, f))
		}
		return err
	}); err != nil {
		return err
	}
	for _, path := range []string{"gone", "removed", "again/old"} {
		if _, err := os.Lstat(filepath.Join(image, path)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s of the image is back: %w", path, err)
		}
	}
	kept, err := os.ReadFile(filepath.Join(image, "kept"))
	if err != nil || string(kept) != "replaced "+filepath.Join(image, "kept") {
		return fmt.Errorf("the replaced file is %q: %w", kept, err)
	}
	if again, err := os.ReadFile(filepath.Join(image, "again/new")); err != nil || string(again) != "new" {
		return fmt.Errorf("the folder made again has %q: %w", again, err)
	}
	return nil
}
