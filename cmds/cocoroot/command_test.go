package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// every calls f with each command that does something.
func every(c *cobra.Command, f func(*cobra.Command)) {
	if !c.HasSubCommands() && c.Name() != "help" {
		f(c)
	}
	for _, sub := range c.Commands() {
		every(sub, f)
	}
}

// noWord is what pflag says of an option's value when nobody else does.
var noWord = regexp.MustCompile(`--[a-z-]+(\[=| (value|string|strings|stringArray|duration|ints?|uint\d*) )`)

// Each command says how it is called, has an example and explains its options,
// on lines no wider than a terminal's.
func TestHelp(t *testing.T) {
	root := (&app{}).root()
	n := 0
	every(root, func(c *cobra.Command) {
		n++
		words := strings.Fields(c.CommandPath())[1:]
		code, out, stderr := call(t, append(words, "--help")...)
		if code != fault.OK || !strings.HasPrefix(out, "usage: "+c.CommandPath()) || stderr != "" {
			t.Errorf("%s --help = %d, %q, %q", c.CommandPath(), code, out, stderr)
		}
		if c.Example == "" || !strings.Contains(out, "Examples:\n  cocoroot ") && !strings.Contains(out, "Examples:\n  ") {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if _, again, _ := call(t, append([]string{"help"}, words...)...); again != out {
			t.Errorf("help %s is not %s --help", words, words)
		}
		prose, _, _ := strings.Cut(out, "\nExamples:")
		_, options, _ := strings.Cut(out, "\nOptions:")
		for line := range strings.Lines(prose + options) {
			if len([]rune(line)) > 81 && !strings.HasPrefix(line, "usage: ") {
				t.Errorf("%s --help has a line of %d: %q", c.CommandPath(), len(line), line)
			}
			if noWord.MatchString(line) {
				t.Errorf("%s --help does not say what an option takes: %q", c.CommandPath(), line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s is not explained", c.CommandPath(), f.Name)
			}
		})
	})
	if n < 15 {
		t.Errorf("%d commands; the test looks at few", n)
	}
	for _, args := range []string{"help", "--help", "-h", "secret help", "secret --help", "help secret"} {
		if code, out, stderr := call(t, strings.Fields(args)...); code != fault.OK || !strings.Contains(out, "\nCommands:\n") || stderr != "" {
			t.Errorf("%s = %d, %q, %q", args, code, out, stderr)
		}
	}
}

// A misspelt word is answered with what was meant, all that is missing is said
// at once, and the hint names the command that was called.
func TestWrongUse(t *testing.T) {
	for args, want := range map[string]string{
		"":                                  "cocoroot --help lists them",
		"sael root -o image":                "did you mean cocoroot seal?",
		"secret biuld x -o y":               "did you mean cocoroot secret build?",
		"qqqqq":                             "cocoroot --help lists them",
		"measure":                           "options --mode and --firmware are missing",
		"launch --simulate --firmware x":    "options --kernel, --initrd, --cmdline-file and --disk are missing",
		"secret build":                      "option --output is missing",
		"release collect --qmp x --bogus":   "hint: cocoroot release collect --help shows",
		"secret session":                    "takes the platform's certificates",
		"seal a b -o c":                     "takes one argument, the root file system; it got 2",
		"seal a -o b --pbkdf-parallel four": "invalid argument \"four\"",
	} {
		code, out, stderr := call(t, strings.Fields(args)...)
		if code != fault.Usage || out != "" || !strings.Contains(stderr, want) || strings.Count(stderr, "cocoroot: error: ") != 1 {
			t.Errorf("%s = %d, %q, %q; want %d and %q", args, code, out, stderr, fault.Usage, want)
		}
	}
}

// A program that asks for JSON gets its errors and warnings as JSON.
func TestErrorsAsJSON(t *testing.T) {
	for args, code := range map[string]int{
		"inspect /nonexistent --json":             fault.Failed,
		"inspect --json":                          fault.Usage,
		"seal --json --bogus":                     fault.Usage,
		"secret inspect /nonexistent --json":      fault.Failed,
		"measure --json --mode x --firmware x":    fault.Usage,
		"verify --json /nonexistent":              fault.Usage,
		"release verify --json --digest 0 x -o x": fault.Usage,
	} {
		got, out, stderr := call(t, strings.Fields(args)...)
		var e struct {
			Event, Text, Hint string
			Code              int `json:"exit_code"`
		}
		if err := json.Unmarshal([]byte(stderr), &e); err != nil {
			t.Errorf("%s: %v: %q", args, err, stderr)
			continue
		}
		if got != code || out != "" || e.Event != "error" || e.Text == "" || e.Code != code || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s = %d, %q, %+v; want %d", args, got, out, e, code)
		}
	}
}

func TestVersion(t *testing.T) {
	_, short, _ := call(t, "--version")
	code, out, stderr := call(t, "version")
	if code != fault.OK || stderr != "" || short == "" || !strings.HasPrefix(out, short) || !strings.Contains(out, "firmware: vectors\n") || !strings.Contains(short, "go1.") {
		t.Errorf("version = %d, %q, %q; --version = %q", code, out, stderr, short)
	}
}

// The shells get their completions, of verbs, options and values.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, stderr := call(t, "completion", shell)
		if code != fault.OK || !strings.Contains(out, "cocoroot") || stderr != "" {
			t.Errorf("completion %s = %d, %d bytes, %q", shell, code, len(out), stderr)
		}
		check := func(script string) error {
			return exec.Command(oracle.Tool(t, shell), "-n", put(t, filepath.Join(t.TempDir(), "script"), script)).Run()
		}
		if err := check(out); err != nil {
			t.Errorf("%s does not take its completion: %v", shell, err)
		}
		if check(out+"\nif true\n") == nil {
			t.Errorf("%s -n takes anything", shell)
		}
	}
	for args, want := range map[string]string{
		"se":              "seal\t",
		"secret b":        "build\t",
		"measure --mode ": "sev-snp\n",
		"template qemu-":  "qemu-sev-es\n",
		"seal --fs ":      "erofs\n",
		"seal --root-o":   "--root-owned",
	} {
		_, out, _ := call(t, append([]string{cobra.ShellCompRequestCmd}, strings.Split(args, " ")...)...)
		if !strings.Contains(out, want) {
			t.Errorf("completion of %q = %q; want %q", args, out, want)
		}
	}
}

// Each command has a man page, the same in each build.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "-tags", "man", ".", dir)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go run: %v\n%s", err, out)
	}
	every((&app{}).root(), func(c *cobra.Command) {
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"))
		if err != nil || !strings.Contains(string(page), "Jan 1970") || !strings.Contains(string(page), ".SH EXAMPLE") {
			t.Errorf("the page of %s: %v, %.300q", c.CommandPath(), err, page)
		}
	})
}
