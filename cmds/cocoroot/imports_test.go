package main

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// list runs go list -json.
func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Imports,Deps"}, args...)...)
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
			if from == "templates" && i != "embed" {
				t.Errorf("%s imports %s; it is data, and imports only embed", p.ImportPath, i)
			}
		}
	}
	for _, l := range []string{"cmds", "initramfs", "unlock", "templates"} {
		if !seen[l] {
			t.Errorf("go list found no package in %s; the test looks at nothing", l)
		}
	}
}

// What is only for tests protects nothing, and only tests import it: the
// simulated processor and the oracles, and go-sev-guest's keys for everyone.
func TestOnlyTestsImportWhatIsForTests(t *testing.T) {
	ours := []string{"cocoroot/initramfs/oracle", "cocoroot/initramfs/release/snptest"}
	seen := 0
	for _, p := range list(t, "cocoroot/...") {
		if slices.Contains(ours, p.ImportPath) {
			seen++
			continue
		}
		for _, i := range p.Imports {
			if slices.Contains(ours, i) || i == "testing" || strings.HasSuffix(i, "/testing") {
				t.Errorf("%s imports %s, and is not for tests", p.ImportPath, i)
			}
		}
	}
	if seen != len(ours) {
		t.Errorf("%d packages are for tests; want %v", seen, ours)
	}
}

// The guest's inits link exactly these packages of ours: what writes their
// formats, and what only the owner reads, is not among them. And they link
// nothing that they do not need: neither has a way to start a shell in the
// ordinary archive, nor one to open an image in the debug archive.
func TestInitLinksLittle(t *testing.T) {
	both := []string{"net", "os/exec", "text/template", "encoding/gob", "gopkg.in/yaml.v3", "regexp",
		"github.com/klauspost/compress", "github.com/spf13", "go.yaml.in", "github.com/u-root/u-root/cmds", "mvdan.cc/sh"}
	for _, tc := range []struct {
		program   string
		ours      string // what it links of unlock/
		forbidden []string
	}{
		{"cocoroot/cmds/init", "channel disk dm efi fatal gpt luks2 luks2/internal/layout modules policy release root secmem secret state tsm unseal verity volume", nil},
		{"cocoroot/cmds/debuginit", "efi fatal modules policy root secmem secret verity", []string{"github.com/anatol"}},
	} {
		program := list(t, tc.program)
		if len(program) != 1 {
			t.Fatalf("go list = %+v; want one program", program)
		}
		var ours []string
		for _, dep := range program[0].Deps {
			if name, ok := strings.CutPrefix(dep, "cocoroot/unlock/"); ok {
				ours = append(ours, name)
			} else if layer(dep) != "" {
				t.Errorf("%s links %s", tc.program, dep)
			}
			for _, f := range slices.Concat(both, tc.forbidden) {
				if dep == f || strings.HasPrefix(dep, f+"/") {
					t.Errorf("%s links %s", tc.program, dep)
				}
			}
		}
		slices.Sort(ours)
		if got := strings.Join(ours, " "); got != tc.ours {
			t.Errorf("%s links\n%s; want\n%s", tc.program, got, tc.ours)
		}
	}
}

// Every function of the packages that init links can be reached from init, and
// every function of ours from one of the programs: what only the owner's side
// calls has no place in the guest, and what only tests call goes.
func TestNoDeadFunctions(t *testing.T) {
	for _, programs := range []string{"cocoroot/cmds/init", "cocoroot/cmds/..."} {
		cmd := exec.Command("go", "tool", "deadcode", "-filter", "^cocoroot/", programs)
		cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=0")
		var said bytes.Buffer // what go downloads, too
		cmd.Stderr = &said
		if out, err := cmd.Output(); err != nil || len(out) > 0 {
			t.Errorf("deadcode %s: %v\n%s%s", programs, err, out, &said)
		}
	}
}

// Every exported constant, variable and type of the packages that init links
// is used in them.
func TestGuestUsesWhatItExports(t *testing.T) {
	declared, uses := map[string]string{}, map[string]int{}
	for _, p := range list(t, "-deps", "cocoroot/cmds/init") {
		if layer(p.ImportPath) == "" {
			continue
		}
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				for _, id := range exports(d) {
					declared[id.Name] = p.ImportPath
					uses[id.Name]--
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					uses[id.Name]++
				}
				return true
			})
		}
	}
	if len(declared) < 100 {
		t.Fatalf("%d exported names; the test looks at nothing", len(declared))
	}
	for name, in := range declared {
		if uses[name] == 0 {
			t.Errorf("%s exports %s, which the guest does not use", in, name)
		}
	}
}

// exports returns the exported constants, variables and types of a declaration.
func exports(d ast.Decl) []*ast.Ident {
	var all []*ast.Ident
	if d, ok := d.(*ast.GenDecl); ok {
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				all = append(all, s.Names...)
			case *ast.TypeSpec:
				all = append(all, s.Name)
			}
		}
	}
	return slices.DeleteFunc(all, func(id *ast.Ident) bool { return !id.IsExported() })
}
