package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/image/seal"
	"cocoroot/initramfs/oracle"
)

// documents returns the texts of the repository's Markdown, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	top := os.DirFS(oracle.Repository(t))
	err := fs.WalkDir(top, ".", func(path string, d fs.DirEntry, err error) error {
		if d.IsDir() && (path == "build" || path == ".git") {
			return fs.SkipDir
		}
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := fs.ReadFile(top, path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The READMEs have every option, and none that there is not.
func TestDocumentedOptions(t *testing.T) {
	options := make(map[string]string) // the command, by the option
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { options[f.Name] = c.CommandPath() })
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit((&app{}).root())
	// Of cobra, of build.sh, of the tests' own tool, of virsh; and two that are gone.
	others := []string{"help", "check", "attest", "paused", "secrethdr", "svsm", "vars-size"}
	named := make(map[string]bool)
	for path, text := range documents(t) {
		if path == "templates/firmware/UPSTREAM.md" {
			continue
		}
		for _, m := range regexp.MustCompile(`(?:^|[^\w-])--([a-z0-9][a-z0-9-]*)`).FindAllStringSubmatch(text, -1) {
			if options[m[1]] == "" && !slices.Contains(others, m[1]) {
				t.Errorf("%s names --%s, which no command has", path, m[1])
			}
			named[m[1]] = named[m[1]] || path != "CHANGELOG.md"
		}
	}
	settings := readText(t, filepath.Join(oracle.Repository(t), "templates/vm/cocoroot.toml"))
	for name, command := range options {
		if !named[name] && !strings.Contains(settings, "\n#"+name+" = ") && name != "output" && name != "cpus" {
			t.Errorf("no README names --%s of %s", name, command)
		}
	}
}

// The tables of the READMEs have what the code has.
func TestDocumentedTables(t *testing.T) {
	repository := oracle.Repository(t)
	tool := readText(t, filepath.Join(repository, "cmds/cocoroot/README.md"))
	help := ok(t, "--help")
	codes, _, _ := strings.Cut(help[strings.Index(help, "Exit codes: "):], "\n\n")
	if !strings.Contains(strings.Join(strings.Fields(tool), " "), strings.Join(strings.Fields(codes), " ")) {
		t.Errorf("cmds/cocoroot/README.md does not have %q", codes)
	}
	for _, name := range seal.AuditNames() {
		if !strings.Contains(tool, "`"+name+"`") {
			t.Errorf("cmds/cocoroot/README.md has no finding %s", name)
		}
	}
	for _, c := range (&app{}).root().Commands() {
		if !regexp.MustCompile("(?m)^\\|.*`" + c.Name() + "[ `]").MatchString(tool) {
			t.Errorf("cmds/cocoroot/README.md has no command %s", c.Name())
		}
	}
	checks := readText(t, filepath.Join(repository, "initramfs/release/snp/verify.go"))
	_, table, _ := strings.Cut(readText(t, filepath.Join(repository, "initramfs/release/README.md")), "\n| check |")
	for _, m := range regexp.MustCompile(`(?:refusef\("|\{")([a-zA-Z ]+)", (?:e\.|")`).FindAllStringSubmatch(checks, -1) {
		if !regexp.MustCompile("(?m)^\\|[^|]*\\b" + m[1] + "\\b[^|]*\\|").MatchString(table) {
			t.Errorf("initramfs/release/README.md has no check %s", m[1])
		}
	}
	source := readText(t, filepath.Join(repository, "unlock/policy/policy.go"))
	line := readText(t, filepath.Join(repository, "cmds/init/README.md"))
	inCode := regexp.MustCompile(`case Prefix \+ "([a-z-]+)"`).FindAllStringSubmatch(source, -1)
	inTable := regexp.MustCompile("(?m)^\\| `cocoroot\\.([a-z-]+)=").FindAllStringSubmatch(line, -1)
	names := func(all [][]string) string {
		var out []string
		for _, m := range all {
			out = append(out, m[1])
		}
		slices.Sort(out)
		return fmt.Sprint(out)
	}
	if code, table := names(inCode), names(inTable); code != table || len(inCode) < 10 {
		t.Errorf("init reads %s, and cmds/init/README.md has %s", code, table)
	}
}

// Each link leads to a file, and to a heading of it.
func TestLinks(t *testing.T) {
	all := documents(t)
	anchors := make(map[string][]string)
	for path, text := range all {
		for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
			plain := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
			anchors[path] = append(anchors[path], strings.ReplaceAll(plain, " ", "-"))
		}
	}
	links := 0
	for path, text := range all {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			to, heading, _ := strings.Cut(m[1], "#")
			target := path
			if to != "" {
				target = filepath.Join(filepath.Dir(path), to)
			}
			_, err := os.Stat(filepath.Join(oracle.Repository(t), target))
			if err != nil || heading != "" && !slices.Contains(anchors[target], heading) {
				t.Errorf("%s: the link %s leads nowhere: %v", path, m[1], err)
			}
			links++
		}
	}
	if links < 50 {
		t.Errorf("only %d links were tried", links)
	}
	if n := len(strings.Fields(all["README.md"])); n > 1800 {
		t.Errorf("README.md has %d words; at most 1800", n)
	}
}
