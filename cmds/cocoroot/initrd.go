package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/archive/kmod"
)

func runInitrd(_ context.Context, a *app, flags *pflag.FlagSet, args []string) error {
	out := flags.StringP("output", "o", "", "where to write the archive")
	initFile := flags.String("init", "", "the init to carry (default: the file init, or with --debug debuginit, beside this program)")
	modules := flags.String("modules", "", "folder that has lib/modules/VERSION or usr/lib/modules/VERSION")
	version := flags.String("kver", "", "version of the kernel that the modules are for (default: the only one there)")
	debug := flags.Bool("debug", false, "write a DEBUG archive, with a shell on the console: release no secret to its measurement")
	commands := flags.String("commands", "", "u-root's commands as its builder archived them (with --debug; default: the file commands.cpio beside this program)")
	force := flags.Bool("force", false, "replace an existing file")
	if err := parse(flags, args, "output"); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("initrd takes no argument, %q is one", flags.Arg(0))
	}
	if *modules == "" && *version != "" {
		return usagef("--kver needs --modules")
	}
	if *commands != "" && !*debug {
		return usagef("--commands goes with --debug only")
	}
	var c archive.Contents
	var err error
	if *debug {
		err = readDebug(&c, *initFile, *commands)
	} else {
		c.Init, err = readPart("init", *initFile, "./build.sh tools builds it; --init names another")
	}
	if err != nil {
		return err
	}
	if *modules != "" {
		if c.Modules, err = a.chooseModules(*modules, *version); err != nil {
			return err
		}
	}
	var archived bytes.Buffer
	if err := archive.Write(&archived, c); err != nil {
		return err
	}

	var files outputs
	defer files.discard()
	f, err := files.create(*out, 0o644, *force)
	if err != nil {
		return err
	}
	size := archived.Len()
	if _, err := archived.WriteTo(f); err != nil {
		return fmt.Errorf("cannot write %s: %w", *out, err)
	}
	if err := files.commit(); err != nil {
		return err
	}
	if *debug {
		fmt.Fprintf(a.stdout, "%s: %d bytes, DEBUG: debuginit, a shell and %d kernel modules\n", *out, size, len(c.Modules))
		fmt.Fprintln(a.stderr, "cocoroot: warning: a DEBUG archive gives a shell to whoever has the console; its measurement is another one: release no secret to it")
		return nil
	}
	fmt.Fprintf(a.stdout, "%s: %d bytes, init and %d kernel modules\n", *out, size, len(c.Modules))
	return nil
}

// chooseModules takes from a kernel's modules what the guest loads, and says
// what it will have to do without.
func (a *app) chooseModules(dir, version string) ([]archive.Module, error) {
	choice, err := kmod.Choose(dir, version)
	switch {
	case errors.Is(err, kmod.ErrNoIndex):
		return nil, hinted(err, "depmod -b %s %s makes it; a package that was unpacked and not installed has none", dir, choice.Version)
	case errors.Is(err, kmod.ErrVersion):
		return nil, hinted(err, "--modules names the folder above lib/modules, --kver the kernel")
	case err != nil:
		return nil, err
	}
	for _, l := range choice.Lacks {
		fmt.Fprintf(a.stderr, "cocoroot: warning: a guest with kernel %s has no %s: %s\n", choice.Version, l.Name, l.Effect)
		if l.Name == kmod.EFISecret {
			fmt.Fprintln(a.stderr, "cocoroot: hint: Fedora, SUSE and Ubuntu ship it, Debian does not; ./build.sh kernel makes a kernel that has it")
		}
	}
	return choice.Modules, nil
}

// readDebug reads what a debug archive has and an ordinary one has not.
func readDebug(c *archive.Contents, initFile, commands string) (err error) {
	const hint = "./build.sh initrd --debug builds it; --%s names another"
	if c.Init, err = readPart("debuginit", initFile, fmt.Sprintf(hint, "init")); err != nil {
		return err
	}
	c.Commands, err = readPart("commands.cpio", commands, fmt.Sprintf(hint, "commands"))
	return err
}

// maxPart bounds a part of the archive, in bytes.
const maxPart = 256 << 20

// readPart reads a part of the archive, by default the one of that name which
// was built beside this program.
func readPart(name, path, hint string) ([]byte, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot find %s: %w", name, err)
		}
		path = filepath.Join(filepath.Dir(self), name)
	}
	f, err := openFinite(path)
	if err != nil {
		return nil, hinted(fmt.Errorf("cannot read %s: %w", name, err), "%s", hint)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPart+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if len(data) > maxPart {
		return nil, fmt.Errorf("cannot use %s: it has more than %d bytes", path, maxPart)
	}
	return data, nil
}
