package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
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
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fault.Usagef("%s takes no argument, %.80q is one", c.Name(), args[0])
	}
	return nil
}

// oneArg is for verbs that take one argument, and nothing else but options.
func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fault.Usagef("%s takes one argument, %s; there are %d", c.Name(), what, len(args))
		}
		return nil
	}
}

// someArgs is for verbs that take at least one argument.
func someArgs(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fault.Usagef("%s takes %s", c.Name(), what)
		}
		return nil
	}
}

// option adds an option that is parsed as it is read.
func option[T any](c *cobra.Command, to *T, name, usage string, parse func(string) (T, error)) {
	c.Flags().Var(parsed[T]{to, parse}, name, usage)
}

// repeated adds an option that may be given several times.
func repeated[T any](c *cobra.Command, to *[]T, name, usage string, parse func(string) (T, error)) {
	option(c, to, name, usage, func(s string) ([]T, error) {
		v, err := parse(s)
		return append(*to, v), err
	})
}

// parsed is the value of an option. It implements pflag.Value.
type parsed[T any] struct {
	to    *T
	parse func(string) (T, error)
}

func (p parsed[T]) Set(s string) error {
	v, err := p.parse(s)
	if err == nil {
		*p.to = v
	}
	return err
}

func (parsed[T]) String() string { return "" }

func (parsed[T]) Type() string { return "string" }

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

// missing is the error that names all options that must be given and are not.
func missing(c *cobra.Command) error {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Annotations[cobra.BashCompOneRequiredFlag] != nil && !f.Changed {
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
// would be a file of this name. Only seal reads its root from standard input.
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
	if c.Name() != "seal" {
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

// help prints how a command is called, no wider than the terminal.
func (a *app) help(c *cobra.Command, _ []string) {
	w := c.OutOrStdout()
	width, _ := terminal(a.stdout)
	fmt.Fprintf(w, "usage: %s\n\n%s\n", c.UseLine(), wrap(capital(c.Short)+".", width))
	if c.Long != "" {
		fmt.Fprintf(w, "\n%s\n", wrap(c.Long, width))
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintln(w, "\nCommands:")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				text := wrap(sub.Short, width-14)
				fmt.Fprintf(w, "  %-11s %s\n", sub.Name(), strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 14)))
			}
		}
		fmt.Fprintf(w, "\n%s COMMAND --help shows a command's options.\n", c.CommandPath())
	}
	if c.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", c.Example)
	}
	if c.HasAvailableLocalFlags() {
		fmt.Fprintf(w, "\nOptions:\n%s", c.LocalFlags().FlagUsagesWrapped(width))
	}
}

// capital returns text with its first letter in upper case.
func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// wrap breaks text into lines of at most width bytes, where words allow.
func wrap(text string, width int) string {
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i > 0 && at+1+len(word) > width:
			b.WriteByte('\n')
			at = 0
		case i > 0:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}

// terminal reports whether w is one, and its width, which is 80 where it has none.
func terminal(w io.Writer) (columns int, ok bool) {
	const usual, least = 80, 40
	f, ok := w.(*os.File)
	if !ok {
		return usual, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return usual, false
	}
	return max(least, cmp.Or(int(size.Col), usual)), true
}

// count returns a number with the word for one, or for another number.
func count(n int, one, other string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, other)
}
