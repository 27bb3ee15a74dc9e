package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/image/audit"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/fsimage"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/verity"
)

// AuditNames returns the names that --allow takes.
func AuditNames() []string {
	var names []string
	for _, k := range audit.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

func checkAllowed(allowed []string) error {
	for _, name := range allowed {
		if !slices.Contains(AuditNames(), name) {
			return fault.Usagef("--allow %.64q is not one of %s", name, strings.Join(AuditNames(), ", "))
		}
	}
	return nil
}

// auditRoot looks through the files of an image, and refuses what obeys the
// host and was not allowed. It notes whether the root has kernel modules.
func (o *Options) auditRoot(root *fsimage.Node, kind policy.FSType) error {
	if o.Container.given && o.program == nil {
		return fault.Usagef("--network, --stop-timeout, --secret-file, --secret-env and arguments are for a container image, and %s is none", o.Root)
	}
	line, p, err := o.draftLine(kind)
	if err != nil {
		return err
	}
	all, hasModules, err := audit.Check(root, p.Init, line)
	if err != nil {
		return err
	}
	if err := checkStates(root, p); err != nil {
		return err
	}
	o.hasModules = hasModules
	var text strings.Builder
	var names, words []string
	for _, f := range all {
		if slices.Contains(o.Allow, f.Name) {
			continue
		}
		fmt.Fprintf(&text, "\n  %s: %s: %s", f.Name, f.Path, f.Reason)
		if !slices.Contains(names, f.Name) {
			names = append(names, f.Name)
		}
		if f.Word != "" && !slices.Contains(words, f.Word) {
			words = append(words, f.Word)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if top := onlyFolder(root); top != "" && slices.Contains(names, audit.NoInit) {
		return fault.Hintf(fmt.Errorf("the root file system has no init, and all of it lies in one folder, %q:%s", top, text.String()),
			"make the tar from inside that folder: tar -C %s -c .", fault.ShellWord(top))
	}
	if o.Container.unnamed && slices.Contains(names, audit.NoInit) {
		return fault.Hintf(fmt.Errorf("the container image has neither Entrypoint nor Cmd, which say what to start, and no init:%s", text.String()),
			"name the program, after all options: -- PROGRAM ARGUMENT…; or the guest's first process: --init PROGRAM")
	}
	without := ""
	if len(words) > 0 {
		without = fmt.Sprintf(", have systemd leave that alone with --append '%s'", strings.Join(words, " "))
	}
	return fault.Hintf(fmt.Errorf("the root file system is not sealed as it is:%s", text.String()),
		"change the root%s, or seal it anyway with --allow %s", without, strings.Join(names, ","))
}

// checkStates refuses a state for which the image has no folder, so that the guest
// would end with STATE-PATH, or one in which what is started lies, where links lead. A
// way with links in it may lead to another state.
func checkStates(root *fsimage.Node, p policy.Policy) error {
	_, init, _ := root.Find(p.Init, true) // what is not there is not hidden
	for _, s := range p.States {
		n, real, err := root.Find(s.Path, true)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fsimage.ErrLoop), err == nil && !n.Mode.IsDir():
			return fault.Hintf(fmt.Errorf("the state %s cannot be mounted: the root file system has no folder %s", s.Name, s.Path), "make the folder there, and seal again")
		case err != nil:
			return fmt.Errorf("cannot look for the folder of the state %s: %w", s.Name, err)
		case "/"+real != s.Path:
			return fault.Hintf(fmt.Errorf("the state %s cannot be mounted: on the way to %s there is a link", s.Name, s.Path), "its folder is /%s: use that path", real)
		case policy.Below("/"+init, s.Path):
			return fmt.Errorf("the state %s cannot be mounted: it would hide /%s, which %s is", s.Name, init, p.Init)
		}
	}
	return nil
}

// draftLine returns the command line, which has no image yet, and what it says.
func (o Options) draftLine(kind policy.FSType) (line string, p policy.Policy, err error) {
	if p, err = o.policy(kind, verity.Params{DataBlocks: 1}); err != nil {
		return "", p, err
	}
	if line, err = cmdline.Build(p, o.lineOptions()); err != nil {
		return "", p, err
	}
	p, err = policy.Parse(line)
	return line, p, err
}

// policy returns what the command line is to say.
func (o Options) policy(kind policy.FSType, image verity.Params) (policy.Policy, error) {
	p := policy.Defaults()
	p.Release, p.States, p.Credentials = o.Release, o.States, o.Credentials
	if len(o.States) > 0 {
		p.StateKey = o.StateKey
	}
	if o.Scratch != (policy.Disk{}) {
		p.Overlay = policy.Overlay{Scratch: o.Scratch}
	}
	p.FSType, p.Image, p.Console = kind, image, slices.Contains(o.Allow, audit.ConsoleLogin)
	if o.hasModules && !strings.Contains(o.Line.Append, "cocoroot.modules=") { // which is for the owner to say
		p.Modules = policy.Open
	}
	if o.Init != "" {
		p.Init = o.Init
	}
	var err error
	if p.Disk, err = policy.ParseDisk(o.Disk); err != nil {
		return p, fault.Usagef("--disk: %w", err)
	}
	return p, nil
}

// lineOptions returns what the command line has beside its policy.
func (o Options) lineOptions() cmdline.Options {
	line := o.Line
	line.Login = slices.Contains(o.Allow, audit.ConsoleLogin)
	return line
}

// onlyFolder returns the name of the one folder in which all of a root lies, or
// "": whoever packs a root from above it makes such a one.
func onlyFolder(root *fsimage.Node) string {
	names, err := root.Names()
	var top []string
	for name, n := range names {
		if name != "lost+found" {
			top = append(top, name)
			if !n.Mode.IsDir() {
				return ""
			}
		}
	}
	if err != nil || len(top) != 1 {
		return ""
	}
	return top[0]
}
