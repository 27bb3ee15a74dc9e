package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// list runs go list -json.
func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, args...)...)
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// layer returns the folder of the layout that a package of ours lies in.
func layer(path string) string {
	rest, ok := strings.CutPrefix(path, "cocoroot/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// Imports go one way: cmds, initramfs, unlock; templates stands alone.
func TestImportDirection(t *testing.T) {
	allowed := map[string][]string{
		"cmds":      {"initramfs", "unlock", "templates"},
		"initramfs": {"initramfs", "unlock"},
		"unlock":    {"unlock"},
		"templates": {},
	}
	seen := make(map[string]bool)
	for _, p := range list(t, "cocoroot/...") {
		from := layer(p.ImportPath)
		seen[from] = true
		for _, i := range p.Imports {
			if to := layer(i); to != "" && !slices.Contains(allowed[from], to) {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
	for _, l := range []string{"cmds", "initramfs", "unlock"} {
		if !seen[l] {
			t.Errorf("go list found no package in %s; the test looks at nothing", l)
		}
	}
}

// The guest's init links nothing that it does not need.
func TestInitLinksLittle(t *testing.T) {
	forbidden := []string{"net", "os/exec", "text/template", "encoding/gob", "gopkg.in/yaml.v3", "regexp",
		"github.com/klauspost/compress", "github.com/spf13/pflag"}
	init := list(t, "cocoroot/cmds/init")
	if len(init) != 1 || !slices.Contains(init[0].Deps, "github.com/anatol/luks.go") {
		t.Fatalf("go list = %+v; the test looks at nothing", init)
	}
	for _, dep := range init[0].Deps {
		for _, f := range forbidden {
			if dep == f || strings.HasPrefix(dep, f+"/") {
				t.Errorf("init links %s", dep)
			}
		}
	}
}
