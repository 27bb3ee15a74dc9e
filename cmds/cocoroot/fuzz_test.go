package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
)

// Every fuzz target has a test beside it that shows how far its seeds get: a
// target whose seeds end before the parser finds nothing and is green.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	function := regexp.MustCompile(`(?m)^func (Fuzz\w+|TestFuzz\w+Seeds)\(`)
	have := make(map[string]bool) // folder and name
	root := oracle.Repository(t)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == filepath.Join(root, "build") || strings.HasPrefix(d.Name(), ".git")) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range function.FindAllStringSubmatch(string(source), -1) {
			have[filepath.Join(filepath.Dir(path), m[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	targets := 0
	for path := range have {
		dir, name := filepath.Split(path)
		if strings.HasPrefix(name, "Fuzz") {
			targets++
			if !have[dir+"Test"+name+"Seeds"] {
				t.Errorf("%s has %s, and no Test%sSeeds", dir, name, name)
			}
		}
	}
	if targets < 10 {
		t.Errorf("%d fuzz targets found; want at least 10", targets)
	}
}
