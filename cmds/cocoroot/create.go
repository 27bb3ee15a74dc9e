package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/vm"
)

// createOptions are the options of create and run as they were given.
type createOptions struct {
	output                   // the folder
	record                   vm.Record
	firmware, kernel, initrd string
	states                   []string // NAME,PATH,SIZE
	scratch                  string   // size
	settings                 string
	unchecked                bool
	seal                     *cobra.Command // has all of seal's other options
	given                    func(name string) bool
}

// sealsOwn are options of seal that are create's to give.
var sealsOwn = []string{"output", "force", "json", "key-file", "key-out", "passphrase-file", "pbkdf-memory", "pbkdf-force-iterations", "pbkdf-parallel",
	"cmdline-out", "manifest-out", "measure", "firmware", "kernel", "initrd", "state", "state-key", "scratch"}

func (a *app) create() *cobra.Command {
	var o createOptions
	c := verb("create SOURCE -o FOLDER [-- ARGUMENT…]", "make a guest of a folder, a tar, a container image or a disk image",
		"  cocoroot create app.tar -o vm\n  cocoroot create root/ -o vm --mode sev-snp --vcpus 4 --vcpu-type EPYC-Genoa\n  cocoroot create app.tar -o vm --settings cocoroot.toml", o.sources)
	c.Long = "FOLDER/host goes to the host, and FOLDER/owner stays. cocoroot template settings\nprints a file with all settings."
	o.output.register(c, "`FOLDER` to make")
	c.Flags().Lookup("force").Usage = "replace a guest: the owner's key, the states and their key stay, the rest is kept beside it"
	o.register(a, c)
	repeated(c, &o.record.Modes, "mode", "launch on SEV hardware, measured for the `MODE`: sev and sev-es, or sev-snp (default: none, for simulated launches)", launch.ParseMode)
	c.Flags().StringVar(&o.record.VCPUType, "vcpu-type", "", "`TYPE` of the CPUs, QEMU's -cpu on the host, such as EPYC-Genoa; sev-es and sev-snp measure it")
	c.Flags().BoolVar(&o.unchecked, "firmware-unchecked", false, "take firmware that is not cocoroot's own: it may let the host in before the measured kernel runs")
	choices(c, "mode", launch.Modes()...)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := a.createFolder(c.Context(), o, args); err != nil {
			return err
		}
		return o.tell(a.stdout)
	}
	return c
}

// sources are the arguments that seal takes.
func (o *createOptions) sources(c *cobra.Command, args []string) error { return o.seal.Args(c, args) }

// register adds the options that run has too.
func (o *createOptions) register(a *app, c *cobra.Command) {
	flags := c.Flags()
	o.given = flags.Changed
	flags.StringVar(&o.settings, "settings", "", "`FILE` of settings; an option takes precedence")
	flags.IntVar(&o.record.Memory, "memory", 1024, "memory of the guest, `MIB`")
	flags.IntSliceVar(&o.record.VCPUs, "vcpus", []int{1}, "virtual CPUs of the guest; of several numbers, each is measured and the first is usual")
	flags.StringVar(&o.firmware, "firmware", "", "OVMF (default: OVMF.amdsev.fd beside this program)")
	flags.StringVar(&o.kernel, "kernel", "", "kernel (default: bzImage beside this program)")
	flags.StringVar(&o.initrd, "initrd", "", "archive that cocoroot initrd wrote (default: initrd.img beside this program)")
	repeated(c, &o.states, "state", "`NAME,PATH,SIZE`: an encrypted disk, such as data,/var/lib/app,10G, whose files outlive the guest, mounted at the image's folder PATH; may be repeated",
		func(s string) (string, error) { return s, o.addState(s) })
	option(c, &o.scratch, "scratch", "`SIZE` of a disk for what the guest writes, with a key of each boot (default: RAM)",
		func(s string) (string, error) { return s, o.addDisk(vm.Disk{Name: "scratch", Scratch: true}, s) })
	o.seal = (&app{stdout: io.Discard, stderr: a.stderr, own: a.own}).seal()
	o.seal.Flags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(sealsOwn, f.Name) {
			flags.AddFlag(f)
		}
	})
}

func (o *createOptions) addState(text string) error {
	name, rest, _ := strings.Cut(text, ",")
	path, size, ok := strings.Cut(rest, ",")
	if !ok {
		return fmt.Errorf("%.80q is not NAME,PATH,SIZE, such as data,/var/lib/app,10G", text)
	}
	if err := o.addDisk(vm.Disk{Name: name}, size); err != nil {
		return err
	}
	return o.seal.Flags().Set("state", name+","+path+",serial:"+name)
}

func (o *createOptions) addDisk(d vm.Disk, size string) (err error) {
	if d.Scratch {
		if err := o.seal.Flags().Set("scratch", "serial:scratch"); err != nil {
			return err
		}
	}
	d.Size, err = vm.ParseSize(size)
	o.record.Disks = append(o.record.Disks, d)
	return err
}

// check refuses options that do not fit together, before there is any work. A mode
// that is named twice is one.
func (o *createOptions) check() error {
	slices.Sort(o.record.Modes)
	o.record.Modes = slices.Compact(o.record.Modes)
	snp := slices.Contains(o.record.Modes, launch.ModeSNP)
	hardware := len(o.record.Modes) > 0
	switch {
	case snp && len(o.record.Modes) > 1:
		return fault.Usagef("a guest for sev-snp asks its owner, and cannot be launched in another mode: make a folder for each")
	case !snp && (o.given("channel") || o.given("owner")):
		return fault.Usagef("--owner and --channel are for --mode sev-snp")
	case hardware && o.record.VCPUType == "" && !slices.Equal(o.record.Modes, []launch.Mode{launch.ModeSEV}):
		return missingOptions("--vcpu-type")
	case len(o.record.VCPUs) == 0 || o.record.Memory < 1 || slices.Min(o.record.VCPUs) < 1:
		return fault.Usagef("--vcpus and --memory are at least 1")
	}
	return nil
}

// createFolder makes the guest, all of it or nothing.
func (a *app) createFolder(ctx context.Context, o createOptions, args []string) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	out := filepath.Clean(o.path)
	old, err := vm.Open(out)
	replaces := err == nil
	if err != nil && !errors.Is(err, vm.ErrNone) {
		return err
	}
	if _, statErr := os.Lstat(out); statErr == nil && !(replaces && o.force && old.Owned()) {
		err := fmt.Errorf("cannot make %s: it is there already", out)
		if replaces {
			return fault.Hintf(err, "--force replaces the guest, and keeps what was there")
		}
		return fault.Hintf(err, "choose another name; --force replaces only a guest's folder, with both halves")
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".tmp-*")
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", out, errors.Unwrap(err))
	}
	files.ScratchOf(ctx).Add(dir)
	defer os.RemoveAll(dir)
	f, err := vm.New(dir, o.record)
	if err == nil && replaces {
		err = f.Inherit(old)
	}
	if err == nil {
		err = a.fillFolder(ctx, o, f, args)
	}
	if err != nil {
		return files.Renamed{Err: err, From: dir, To: out}
	}
	if !replaces {
		return f.Place(out)
	}
	kept := out + ".old-" + time.Now().UTC().Format("20060102T150405")
	if err := f.Replace(old, kept); err != nil {
		return err
	}
	a.note("what %s was is kept as %s", out, kept)
	return nil
}

// fillFolder makes what is in the guest's folder, as the single verbs do.
func (a *app) fillFolder(ctx context.Context, o createOptions, f vm.Folder, args []string) error {
	isFirmware := func(b []byte) bool {
		_, err := ovmf.Parse(b)
		return err == nil
	}
	for _, part := range []struct {
		name, path, beside string
		is                 func([]byte) bool // another file, which may be a key, does not go to the host
	}{
		{vm.Firmware, o.firmware, "OVMF.amdsev.fd", isFirmware}, {vm.Kernel, o.kernel, "bzImage", inspect.IsKernel}, {vm.Initrd, o.initrd, "initrd.img", archive.IsArchive},
	} {
		b, err := readPart(part.beside, part.path, fmt.Sprintf("./build.sh %[1]s makes it; --%[1]s names another", part.name))
		if err == nil && !part.is(b) {
			err = fault.Usagef("%s is not a file of the kind %s", cmp.Or(part.path, part.beside), part.name)
		}
		if err == nil {
			err = f.Take(part.name, b)
		}
		if err != nil {
			return err
		}
	}
	if len(f.Modes) > 0 {
		if err := a.wantOwn(f.At(vm.Firmware), o.unchecked); err != nil {
			return err
		}
	}
	quiet := &app{stdout: io.Discard, stderr: a.stderr, own: a.own, json: a.json}
	if len(o.states) > 0 && there(f.Own(vm.StateKey)) == "" {
		if err := also(ctx, quiet.stateNew(), nil, "output", f.Own(vm.StateKey)); err != nil {
			return err
		}
	}
	options := []string{"output", f.At(vm.Image), "cmdline-out", f.At(vm.Cmdline), "manifest-out", f.Own(vm.Manifest), "key-out", f.Own(vm.DiskKey)}
	if slices.Contains(f.Modes, launch.ModeSNP) && !o.given("owner") {
		if there(f.Own(vm.Owner+".key")) == "" {
			if err := also(ctx, quiet.ownerNew(), nil, "output", f.Own(vm.Owner)); err != nil {
				return err
			}
		}
		options = append(options, "owner", f.Own(vm.Owner+".pub"))
	}
	for _, mode := range f.Modes {
		if mode == launch.ModeSEV { // measures no CPUs
			options = append(options, "measure", string(mode))
			continue
		}
		for _, n := range f.VCPUs {
			options = append(options, "measure", fmt.Sprintf("%s:%d:%s", mode, n, f.VCPUType))
		}
	}
	if len(f.Modes) == 0 && !o.given("append") { // on a busy machine an emulated timer ticks late, and Linux panics
		options = append(options, "append", "no_timer_check")
	}
	if len(f.Modes) > 0 {
		options = append(options, "firmware", f.At(vm.Firmware), "kernel", f.At(vm.Kernel), "initrd", f.At(vm.Initrd))
	}
	if err := also(ctx, o.seal, args, options...); err != nil {
		return err
	}
	if err := f.Share(); err != nil {
		return err
	}
	for _, mode := range f.Modes {
		if err := a.writeScript(ctx, f, mode, o.unchecked); err != nil {
			return err
		}
	}
	return f.Save()
}

// newQEMU is the release that scripts are for: the first that says which VM type is
// measured.
const newQEMU = "9.1"

// writeScript writes what starts the guest on a host without cocoroot.
func (a *app) writeScript(ctx context.Context, f vm.Folder, mode launch.Mode, unchecked bool) error {
	dir, err := os.Open(f.At())
	if err != nil {
		return err
	}
	defer dir.Close()
	here := fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) // nothing in it needs quotes
	var text strings.Builder
	c := (&app{stdout: &text, stderr: a.stderr, own: a.own}).template()
	d := defaults{Folder: f.On(here), command: c}
	if err := cmp.Or(d.guest(mode), d.err); err != nil {
		return err
	}
	options := []string{"qemu-version", newQEMU, "firmware-unchecked", strconv.FormatBool(unchecked)}
	if mode != launch.ModeSNP {
		options = append(options, "session-file", d.At(vm.Session+"_session.b64"), "dh-cert-file", d.At(vm.Session+"_godh.b64"))
	}
	if err := also(ctx, c, []string{"qemu-" + string(mode)}, options...); err != nil {
		return err
	}
	before := "case $0 in */*) CDPATH= cd -- \"${0%/*}/\" || exit ;; esac\nmkdir -p -m 700 run disks\n"
	for _, disk := range f.Disks {
		before += fmt.Sprintf("[ -e disks/%[1]s ] || truncate -s %[2]d disks/%[1]s\n", disk.Name, disk.Size)
	}
	script := strings.Replace(text.String(), "\nexec ", "\n"+before+"exec ", 1)
	return files.Write(false, files.Public(f.At("launch-"+string(mode)+".sh"), []byte(strings.ReplaceAll(script, here+"/", "./"))))
}

// also runs another verb as if it had been typed.
func also(ctx context.Context, c *cobra.Command, args []string, options ...string) error {
	for i := 0; i < len(options); i += 2 {
		if err := c.Flags().Set(options[i], options[i+1]); err != nil {
			return fault.Usagef("%w", err)
		}
	}
	c.SetContext(ctx)
	return c.RunE(c, args)
}

// tell says what was made, and what comes next.
func (o createOptions) tell(w io.Writer) error {
	f, err := vm.Open(o.path)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: for the host, nothing of it secret\n%s: stays with you, keep it secret\n", f.At(), f.Own())
	if len(f.Modes) == 0 {
		path := o.path
		if strings.HasPrefix(path, "-") { // or it would be an option
			path = "./" + path
		}
		fmt.Fprintf(w, "next: cocoroot launch %s --simulate\n", fault.ShellWord(path))
		return nil
	}
	fmt.Fprintf(w, "next, on the host, with a copy of %s: cocoroot launch COPY --mode %s\n", f.At(), f.Modes[0])
	return nil
}
