package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release"
	"cocoroot/unlock/fatal/codes"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/program"
	"cocoroot/unlock/secmem"
)

// silence is how long a guest may say nothing before the user is told why
// that may be. Under emulation the first line takes some 5 s.
const silence = 60 * time.Second

// notStarted is the exit code of a container image's program that was not started, as
// cmds/run tells it.
const notStarted = 125

// launchOptions are the options of the verb as they were given.
type launchOptions struct {
	guestOptions
	simulate, dryRun bool
	mode             launch.Mode
	release.Contents // of the table of secrets
	timeout          time.Duration
	publish          string         // a manifest, whose ports are forwarded
	table            *secmem.Buffer // of the secrets
}

func (a *app) launch() *cobra.Command {
	var o launchOptions
	c := verb("launch --mode MODE|--simulate {FOLDER|--firmware F --kernel F --initrd F --cmdline-file F --disk IMAGE}", "start a guest under QEMU, on SEV hardware or without",
		"  cocoroot launch vm --simulate\n  cocoroot launch --simulate --firmware OVMF.amdsev.fd --kernel bzImage --initrd initrd.img --cmdline-file image.cmdline \\\n    --disk image --secret disk=image.key",
		func(c *cobra.Command, args []string) error { return launchFolder(c, args, o.mode) })
	flags := c.Flags()
	flags.BoolVar(&o.simulate, "simulate", false, "launch without SEV; protects nothing")
	option(c, &o.mode, "mode", "launch on SEV hardware, in `MODE` sev, sev-es or sev-snp", launch.ParseMode)
	flags.StringArrayVar(&o.Pairs, "secret", nil, "with --simulate: secret to inject, `GUID=FILE`, disk=FILE for the image's key, or state=FILE for that of state disks; may be repeated")
	stateOrders(c, &o.Orders)
	flags.StringVar(&o.config.Accel, "accel", "tcg", "with --simulate: `ACCELERATOR` tcg, or kvm where it can run firmware")
	option(c, &o.config.Forwards, "forward", "give the guest a network card, and forward a port of this machine's loopback to one of the guest's, `HOST:GUEST`: 8022:22; may be repeated",
		func(text string) ([]launch.Forward, error) {
			f, err := launch.ParseForward(text)
			return append(o.config.Forwards, f), err
		})
	flags.StringVar(&o.publish, "publish", "", "forward the ports at which a container image's program listens, as --publish=`MANIFEST` says (default: the disk's, IMAGE.manifest.json): from the same port of the loopback, or from 8000 + PORT where that is below 1024")
	flags.Lookup("publish").NoOptDefVal = besideDisk
	flags.DurationVar(&o.timeout, "timeout", 0, "end the guest after this `TIME` (default: never)")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print the QEMU command and do nothing; needs no SEV hardware")
	o.register(c)
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "cpus" { // its name before there was --mode
			name = "vcpus"
		}
		return pflag.NormalizedName(name)
	})
	need(c, "firmware", "kernel", "initrd", "cmdline-file", "disk")
	choices(c, "mode", launch.Modes()...)
	choices(c, "accel", "tcg", "kvm")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.launchGuest(c.Context(), &o) }
	return c
}

func (a *app) launchGuest(ctx context.Context, o *launchOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := o.readFiles(); err != nil {
		return err
	}
	prepare := o.onHardware
	if o.simulate {
		prepare = o.simulated
	}
	defer func() { o.table.Close() }()
	if err := prepare(a); err != nil {
		return err
	}
	if o.dryRun {
		return o.printCommand(ctx, a)
	}
	if err := launch.CheckFree(o.config.Forwards); err != nil {
		return err
	}
	if a.starting != nil {
		end, err := a.starting(ctx, o)
		if err != nil {
			return err
		}
		defer end()
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	if o.config.Program {
		stop := make(chan struct{})
		o.config.Stop = stop
		a.onInterrupt(func() {
			a.note("asking the program to end; a second interrupt ends the guest")
			close(stop)
		})
	}
	console := &launch.Plain{Out: a.stdout}
	outcome, err := launch.Run(ctx, o.config, console)
	return judge(outcome, cmp.Or(err, console.Close()), o)
}

// check checks that the options fit together.
func (o *launchOptions) check() error {
	if o.simulate == (o.mode != "") {
		return fault.New(fault.Usage, errors.New("a launch is one of --simulate and --mode"),
			"--mode sev-es launches on SEV hardware; --simulate boots the image anywhere, and protects nothing")
	}
	others, why := []string{"secret", "state-create", "state-floor", "accel"}, "is for --simulate: on SEV hardware no secret passes through the host, and there is only KVM"
	if o.simulate {
		others = []string{"policy", "vcpu-type", "vm-type", "session-file", "dh-cert-file", "cbitpos", "reduced-phys-bits", "firmware-unchecked", "qmp-socket",
			"channel", "host-data", "id-block", "id-auth"}
		why = "is for --mode"
	}
	if o.version != "" && !o.dryRun {
		return fault.Usagef("option --qemu-version is for --dry-run: the QEMU that is started says which one it is")
	}
	if i := slices.IndexFunc(others, o.given); i >= 0 {
		return fault.Usagef("option --%s %s", others[i], why)
	}
	return nil
}

// readFiles reads what the options name.
func (o *launchOptions) readFiles() (err error) {
	var p policy.Policy
	if o.config.Cmdline, p, err = cmdline.ReadPolicy(o.cmdline); err != nil {
		return err
	}
	o.config.Channel = p.Release.Channel
	o.config.Program = p.Init == program.Path
	if err := inspect.CheckBoot(o.config.Kernel, o.config.Initrd); err != nil {
		return err
	}
	if err := o.parseDisks(p); err != nil {
		return err
	}
	for _, disk := range o.config.Disks {
		if err := checkDisk(disk); err != nil {
			return err
		}
	}
	return cmp.Or(o.checkStates(p), o.publishPorts())
}

// checkDisk refuses what QEMU, or the guest, could not use.
func checkDisk(d launch.Disk) error {
	if fi, err := os.Stat(d.Path); d.Writable && (errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode().IsRegular() && fi.Size() == 0) {
		return fault.Hintf(fmt.Errorf("cannot use the disk %s: it is not there, or empty", d.Path), "truncate -s 10G %s makes one, which grows as it is written to", fault.ShellWord(d.Path))
	}
	return files.CheckRaw(d.Path)
}

// checkStates refuses a simulated launch that could not open its state disks.
func (o *launchOptions) checkStates(p policy.Policy) error {
	hasKey := func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		g, err := release.ParseEntry(name)
		return err == nil && g == p.StateKey
	}
	if o.simulate && len(p.States) > 0 && !slices.ContainsFunc(o.Pairs, hasKey) {
		return fault.New(fault.Usage, fmt.Errorf("the guest has state disks, and no --secret brings their key, %s", p.StateKey),
			fmt.Sprintf("cocoroot state new -o F makes one, once; then --secret %s=F", p.StateKey))
	}
	return release.CheckOrders(o.Orders, p)
}

// besideDisk stands for the manifest that seal has put beside the image.
const besideDisk = "IMAGE.manifest.json"

// publishPorts forwards the ports that a manifest has. The host needs none of them to be
// true: what it forwards is its own affair.
func (o *launchOptions) publishPorts() error {
	switch o.publish {
	case "":
		return nil
	case besideDisk:
		o.publish = o.config.Disks[0].Path + ".manifest.json"
	}
	text, err := files.Read(o.publish, manifest.MaxSize)
	if err != nil {
		return fault.Hintf(err, "--publish=MANIFEST names the file that cocoroot seal wrote, --forward a port")
	}
	m, err := manifest.Parse(text)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", o.publish, err)
	}
	if m.Program == nil || len(m.Program.Ports) == 0 {
		return fault.Hintf(fmt.Errorf("%s names no ports", o.publish), "--forward HOST:GUEST forwards a port")
	}
	o.config.Forwards = append(o.config.Forwards, launch.Published(m.Program.Ports)...)
	return nil
}

// printCommand is --dry-run.
func (o *launchOptions) printCommand(ctx context.Context, a *app) error {
	v, err := o.qemuVersion(ctx)
	if err != nil {
		return err
	}
	words, err := launch.CommandLine(o.config, v)
	if err != nil {
		return err
	}
	if o.simulate {
		a.note("the command reads %s and, with --secret, %s; launch makes both itself, in memory: cocoroot secret build makes the second one", launch.HashesFile, launch.SecretFile)
	}
	fmt.Fprintln(a.stdout, fault.ShellWords(words))
	return nil
}

// simulated prepares a launch without SEV.
func (o *launchOptions) simulated(a *app) error {
	if len(o.Pairs) > 0 {
		area, err := release.TableArea(o.config.Firmware)
		if err != nil {
			return err
		}
		if o.table, err = release.BuildTable(a.warn, o.Contents, area); err != nil {
			return err
		}
		o.config.SecretTable = o.table.Bytes()
	}
	image, err := files.Read(o.config.Firmware, files.MaxImage)
	if err != nil {
		return err
	}
	a.warnForeign(sha256.Sum256(image))
	if !o.dryRun {
		a.note("a simulated launch protects nothing: this host sees the secret and all of the guest's memory")
		if len(o.config.Forwards) > 0 {
			a.note("the guest has a network card: it can reach what this machine reaches, and what listens on its loopback (as 10.0.2.2)")
		}
	}
	o.listen(a)
	return nil
}

// listen says why a guest may be silent.
func (o *launchOptions) listen(a *app) {
	o.config.Silence, o.config.OnSilence = silence, func() {
		a.note("no word from the guest for %s: the firmware stands still when a hash does not match", silence)
	}
}

// onHardware prepares a launch on SEV hardware. To print the command needs none:
// there, usual values do.
func (o *launchOptions) onHardware(a *app) error {
	mode := o.mode
	if err := o.confidential(mode, true); err != nil {
		return err
	}
	if err := o.checkChannel(a); err != nil {
		return err
	}
	o.config.Accel = ""
	if err := o.config.Check(); err != nil {
		return fault.Usagef("%w", err)
	}
	if o.sev.Weak() {
		a.warn("the policy %#x protects less than %#x", o.sev.Policy, mode.Policy())
	}
	if err := a.wantOwn(o.config.Firmware, o.unchecked); err != nil {
		return err
	}
	switch host := launch.CheckHost(os.DirFS("/"), mode); {
	case host != nil && !o.dryRun:
		return host
	case o.given("cbitpos"):
	case host != nil:
		a.warn("this host has no SEV; cbitpos=%d is usual, and QEMU refuses a wrong one", o.sev.CBit)
	default:
		o.sev.CBit = launch.CBit()
	}
	if o.dryRun {
		return nil
	}
	for _, socket := range []string{o.config.QMPSocket, o.config.ChannelSocket} {
		if socket == "" {
			continue
		}
		if err := launch.CheckSocket(socket); err != nil {
			return fault.Hintf(err, "make a folder for it: mkdir -m 700 DIR")
		}
	}
	if !o.sev.TakesSecret() {
		o.listen(a)
		if o.config.ChannelSocket != "" {
			a.note("the guest will ask for its secrets: cocoroot release collect --channel %s --challenge F", fault.ShellWord(o.config.ChannelSocket))
		}
		return nil
	}
	o.config.OnStart = func(context.Context, *qmp.Client) error {
		a.note("the guest waits for its secret: cocoroot release collect --qmp %s", fault.ShellWord(o.config.QMPSocket))
		return nil
	}
	_, _, err := release.ReadSession(o.sev.Session, o.sev.DHCert)
	return err
}

// judge turns the end of the guest into the verb's. A program that told its exit code
// was started: what looks like a refusal on the console is then its own text, or that
// of somebody whom it quotes.
func judge(o launch.Outcome, err error, as *launchOptions) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fault.New(fault.Interrupted, errors.New("interrupted: QEMU was ended, and the guest with it"), "")
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Hintf(fmt.Errorf("the guest did not end within %s", as.timeout), "--timeout gives it more time")
	case err != nil:
		return err
	case o.Exit != nil && *o.Exit == notStarted:
		return fault.New(notStarted, errors.New("the image's program was not started"), "the guest's last lines say why; a program that ends with exit code 125 itself looks the same")
	case o.Exit != nil && *o.Exit != fault.OK:
		return fault.New(*o.Exit, fmt.Errorf("the image's program ended with exit code %d", *o.Exit), "that is the program's own code, and not one of cocoroot's")
	case o.Exit != nil:
		return nil
	case o.Fatal != nil:
		code := map[codes.Kind]int{codes.Failed: fault.Failed, codes.Secret: fault.Secret, codes.Tampered: fault.Tampered}
		return &fault.Error{Code: code[codes.KindOf(o.Fatal.Code)], Err: fmt.Errorf("the guest refused to boot: %s", o.Fatal.Code)}
	case strings.Contains(o.Panic, "dm-verity"):
		return &fault.Error{Code: fault.Tampered, Err: errors.New("the guest stopped at a block that is not the measured one")}
	case o.Panic != "":
		return fmt.Errorf("the guest's kernel stopped: %s", o.Panic)
	case as.config.Program:
		return errors.New("the guest ended without an exit code of the image's program")
	case o.Reason != "guest-shutdown":
		return fmt.Errorf("the guest did not power off (%s)", o.Reason)
	}
	return nil
}
