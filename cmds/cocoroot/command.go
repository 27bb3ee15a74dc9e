package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
)

// verb returns a command that does something. Its use is how it is called,
// its brief one line.
func verb(use, brief, example string, args cobra.PositionalArgs) *cobra.Command {
	c := &cobra.Command{Use: use, Short: brief, Example: example, Args: args, DisableFlagsInUseLine: true}
	c.Flags().SortFlags = false
	return c
}

// group returns a command that only has others. A word that is none of them is
// wrong use, and what was meant is guessed.
func group(name, brief, long string, verbs ...*cobra.Command) *cobra.Command {
	c := verb(name+" COMMAND", brief, "", cobra.ArbitraryArgs)
	c.Long = long
	c.SuggestionsMinimumDistance = 2
	c.FParseErrWhitelist.UnknownFlags = true // they are some command's, misspelt
	c.AddCommand(verbs...)
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fault.New(fault.Usage, fmt.Errorf("%s needs a command", c.CommandPath()), c.CommandPath()+" --help lists them")
		case args[0] == "help":
			return c.Help()
		}
		hint := c.CommandPath() + " --help lists them"
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %s %s?", c.CommandPath(), strings.Join(near, " or "))
		}
		return fault.New(fault.Usage, fmt.Errorf("%s has no command %.40q", c.CommandPath(), args[0]), hint)
	}
	return c
}

// noArgs is for verbs that take options only.
var noArgs = takes(0, 0, "no argument")

const many = math.MaxInt

// takes is for verbs that take so many arguments beside their options.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if n := len(args); n < least || n > most {
			return fault.Usagef("%s takes %s; it got %d", c.Name(), what, n)
		}
		if slices.Contains(args, "") { // a variable of a shell that is not set
			return fault.Usagef("%s takes %s; it got an empty one", c.Name(), what)
		}
		return nil
	}
}

// option adds an option that is parsed as it is read.
func option[T any](c *cobra.Command, to *T, name, usage string, parse func(string) (T, error)) {
	c.Flags().Func(name, usage, func(s string) error {
		v, err := parse(s)
		if err == nil {
			*to = v
		}
		return err
	})
}

// repeated adds an option that may be given several times.
func repeated[T any](c *cobra.Command, to *[]T, name, usage string, parse func(string) (T, error)) {
	option(c, to, name, usage, func(s string) ([]T, error) {
		v, err := parse(s)
		return append(*to, v), err
	})
	c.Flags().SetAnnotation(name, isRepeated, []string{})
}

// isRepeated is the annotation of such options.
const isRepeated = "cocoroot_repeated"

// output is where a verb writes, one file or several.
type output struct {
	path  string
	force bool
}

func (o *output) register(c *cobra.Command, what string) {
	c.Flags().StringVarP(&o.path, "output", "o", "", what)
	c.Flags().BoolVar(&o.force, "force", false, "replace what exists")
	need(c, "output")
}

// publish writes the one file, unless there is an error already, and says what it
// is.
func (o *output) publish(w io.Writer, b []byte, what string, err error) error {
	if err == nil {
		err = files.Write(o.force, files.Public(o.path, b))
	}
	if err == nil {
		fmt.Fprintf(w, "%s: %s\n", o.path, what)
	}
	return err
}

// need names options that must be given.
func need(c *cobra.Command, names ...string) {
	for _, name := range names {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // there is no such option
		}
	}
}

// wrongOption is the error for an option that is not the command's, or has not the value
// that it takes. What was meant is guessed, as of commands.
func wrongOption(c *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || unknown.GetSpecifiedShortnames() != "" {
		return fault.Usagef("%w", err)
	}
	all := &cobra.Command{SuggestionsMinimumDistance: 2}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		all.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	hint := ""
	if near := all.SuggestionsFor(unknown.GetSpecifiedName()); len(near) > 0 {
		hint = fmt.Sprintf("did you mean --%s?", strings.Join(near, " or --"))
	}
	return fault.New(fault.Usage, fmt.Errorf("%s has no option --%s", c.CommandPath(), unknown.GetSpecifiedName()), hint)
}

// missing is the error that names all options that must be given and are not.
func missing(c *cobra.Command) error {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		empty := f.Value.Type() == "string" && f.Value.String() == ""
		if f.Annotations[cobra.BashCompOneRequiredFlag] != nil && (!f.Changed || empty) {
			names = append(names, "--"+f.Name)
		}
	})
	return missingOptions(names...)
}

// missingOptions is the error that names missing options.
func missingOptions(names ...string) error {
	switch len(names) {
	case 0:
		return nil
	case 1:
		return fault.Usagef("option %s is missing", names[0])
	}
	return fault.Usagef("options %s are missing", listed(names))
}

// listed returns names as a sentence has them.
func listed(names []string) string {
	if n := len(names) - 1; n > 0 {
		return strings.Join(names[:n], ", ") + " and " + names[n]
	}
	return strings.Join(names, "")
}

// noStream refuses "-", which elsewhere means standard input or output, where it
// would be a file of this name. Only seal, create and run read
// their root from standard input.
func noStream(c *cobra.Command, args []string) (err error) {
	is := func(s string) bool { return s == "-" || strings.HasSuffix(s, "=-") }
	check := func(s string) {
		if is(s) {
			err = fault.New(fault.Usage, fmt.Errorf("%s takes a file, and \"-\" is none", c.CommandPath()), "/dev/stdin and /dev/stdout are files where a pipe will do; ./- is a file of this name")
		}
	}
	c.Flags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "append", "cmdline", "name", "allow", "image":
			return // texts
		}
		check(f.Value.String())
		if all, ok := f.Value.(pflag.SliceValue); ok {
			for _, s := range all.GetSlice() {
				check(s)
			}
		}
	})
	if !slices.Contains([]string{"seal", "create", "run"}, c.Name()) {
		for _, s := range args {
			check(s)
		}
	}
	return err
}

// choices lets a shell complete an option's value.
func choices(c *cobra.Command, name string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such option
	}
}

// helpText says how a command is called.
const helpText = `usage: {{.UseLine}}

{{.Short}}
{{with .Long}}
{{.}}
{{end}}{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}

{{.CommandPath}} COMMAND --help shows a command's options.
{{end}}{{with .Example}}
Examples:
{{.}}
{{end}}{{if .HasAvailableLocalFlags}}
Options:
{{.Annotations.options}}{{end}}`

// showOptions has a command's help list its options as optionsOf does.
func showOptions(root *cobra.Command) {
	help := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, args []string) {
		c.Annotations = map[string]string{"options": optionsOf(c)}
		help(c, args)
	})
}

// optionsOf lists a command's options. What an option takes is the word that its text
// has in backquotes, or else goes by its type.
func optionsOf(c *cobra.Command) string {
	var shown pflag.FlagSet
	shown.SortFlags = false
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		line := *f
		line.Value, line.NoOptDefVal = shownValue{f.Value}, ""
		if f.DefValue == "[]" || f.DefValue == "0s" {
			line.DefValue = ""
		}
		shown.AddFlag(&line)
	})
	return shown.FlagUsagesWrapped(80)
}

// shownValue is an option's value by what it takes.
type shownValue struct{ pflag.Value }

// Type implements pflag.Value.
func (v shownValue) Type() string {
	switch kind := v.Value.Type(); kind {
	case "bool":
		return ""
	case "string", "stringArray":
		return "FILE"
	case "duration":
		return "TIME"
	}
	return "N"
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// count returns a number with the word for one, or for another number.
func count(n int, one, other string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, other)
}
