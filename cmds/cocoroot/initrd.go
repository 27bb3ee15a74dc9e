package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/archive/kmod"
	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/unlock/policy"
)

// initrdOptions are the options of the verb as they were given.
type initrdOptions struct {
	output
	init, modules, version, channel, commands string
	writes, debug                             bool
}

func (a *app) initrd() *cobra.Command {
	var o initrdOptions
	c := verb("initrd -o FILE", "write the initrd, the same bytes wherever it is built",
		"  cocoroot initrd -o initrd.img --modules build/modules\n  cocoroot initrd -o initrd.img --modules / --kver 6.12.1-amd64", noArgs)
	flags := c.Flags()
	o.register(c, "where to write the archive")
	flags.StringVar(&o.init, "init", "", "the init to carry (default: the file init, or with --debug debuginit, beside this program)")
	flags.StringVar(&o.modules, "modules", "", "`FOLDER` that has lib/modules/VERSION or usr/lib/modules/VERSION")
	flags.StringVar(&o.version, "kver", "", "`VERSION` of the kernel that the modules are for (default: the only one there)")
	flags.StringVar(&o.channel, "channel", "", "serial, virtio, tcp or vsock: for this `KIND`, add the modules of a guest that asks its owner in this way")
	flags.BoolVar(&o.writes, "writable-disks", false, "add the modules of a guest with scratch or state disks")
	flags.BoolVar(&o.debug, "debug", false, "write a DEBUG archive, with a shell on the console: release no secret to its measurement")
	flags.StringVar(&o.commands, "commands", "", "u-root's commands as its builder archived them (with --debug; default: the file commands.cpio beside this program)")
	c.RunE = func(*cobra.Command, []string) error { return a.writeInitrd(o) }
	return c
}

func (a *app) writeInitrd(o initrdOptions) error {
	for name, given := range map[string]bool{"kver": o.version != "", "channel": o.channel != "", "writable-disks": o.writes} {
		if given && o.modules == "" {
			return fault.Usagef("--%s needs --modules", name)
		}
	}
	channel := policy.ChannelKind(o.channel)
	if kinds := []policy.ChannelKind{"", policy.Serial, policy.Virtio, policy.TCP, policy.Vsock}; !slices.Contains(kinds, channel) {
		return fault.Usagef("--channel is serial, virtio, tcp or vsock, not %q", channel)
	}
	if o.commands != "" && !o.debug {
		return fault.Usagef("--commands goes with --debug only")
	}
	var c archive.Contents
	var err error
	const debug = "./build.sh initrd --debug builds it; --%s names another"
	if o.debug {
		if c.Init, err = readPart("debuginit", o.init, fmt.Sprintf(debug, "init")); err == nil {
			c.Commands, err = readPart("commands.cpio", o.commands, fmt.Sprintf(debug, "commands"))
		}
	} else {
		c.Init, err = readPart("init", o.init, "./build.sh tools builds it; --init names another")
	}
	if err != nil {
		return err
	}
	if o.modules != "" {
		if c.Modules, err = a.chooseModules(o.modules, o.version, kmod.Guest{Channel: channel, Writes: o.writes}); err != nil {
			return err
		}
	}
	var archived bytes.Buffer
	if err := archive.Write(&archived, c); err != nil {
		return err
	}
	if err := files.Write(o.force, files.Public(o.path, archived.Bytes())); err != nil {
		return err
	}
	carries := "init"
	if o.debug {
		carries = "DEBUG: debuginit, a shell"
		a.warn("a DEBUG archive gives a shell to whoever has the console; its measurement is another one: release no secret to it")
	}
	fmt.Fprintf(a.stdout, "%s: %d bytes, %s and %s\n", o.path, archived.Len(), carries, count(len(c.Modules), "kernel module", "kernel modules"))
	return nil
}

// chooseModules takes from a kernel's modules what the guest loads, and says
// what it will have to do without.
func (a *app) chooseModules(dir, version string, g kmod.Guest) ([]archive.Module, error) {
	choice, err := kmod.Choose(dir, version, g)
	switch {
	case errors.Is(err, kmod.ErrNoIndex):
		return nil, fault.Hintf(err, "depmod -b %s %s makes it; a package that was unpacked and not installed has none", fault.ShellWord(dir), fault.ShellWord(choice.Version))
	case errors.Is(err, kmod.ErrVersion):
		return nil, fault.Hintf(err, "--modules names the folder above lib/modules, --kver the kernel")
	case err != nil:
		return nil, err
	}
	for _, l := range choice.Lacks {
		a.warn("a guest with kernel %s has no %s: %s", choice.Version, l.Name, l.Effect)
		if l.Name == kmod.EFISecret {
			fmt.Fprintln(a.stderr, "cocoroot: hint: Fedora, SUSE and Ubuntu ship it, Debian does not; ./build.sh kernel makes a kernel that has it, and a guest that asks its owner (--channel) needs none")
		}
	}
	return choice.Modules, nil
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
	data, err := files.Read(path, maxPart)
	if err != nil {
		return nil, fault.Hintf(err, "%s", hint)
	}
	return data, nil
}
