package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/ovmf"
	"cocoroot/unlock/fatal"
)

// silence is how long a guest may say nothing before the user is told why
// that may be. Under emulation the first line takes some 5 s.
const silence = 60 * time.Second

func runLaunch(ctx context.Context, a *app, flags *pflag.FlagSet, args []string) error {
	simulate := flags.Bool("simulate", false, "launch without SEV; protects nothing")
	var c launch.Config
	flags.StringVar(&c.Firmware, "firmware", "", "OVMF built for measured direct boot (OVMF.amdsev.fd)")
	flags.StringVar(&c.Kernel, "kernel", "", "kernel (bzImage)")
	flags.StringVar(&c.Initrd, "initrd", "", "archive that cocoroot initrd wrote")
	cmdline := flags.String("cmdline-file", "", "command line that cocoroot seal wrote")
	disks := flags.StringArray("disk", nil, "sealed image, attached read-only as a virtio disk: FILE or FILE,serial=NAME")
	secrets := flags.StringArray("secret", nil, "secret to inject, GUID=FILE; may be repeated")
	flags.IntVar(&c.Memory, "memory", 1024, "memory of the guest, MiB")
	flags.IntVar(&c.CPUs, "cpus", 1, "virtual CPUs of the guest")
	flags.StringVar(&c.Accel, "accel", "tcg", "tcg, or kvm where it can run firmware")
	flags.StringVar(&c.QEMU, "qemu", "qemu-system-x86_64", "QEMU program")
	timeout := flags.Duration("timeout", 0, "end the guest after this time (default: never)")
	dryRun := flags.Bool("dry-run", false, "print the QEMU command and do nothing")
	if err := parse(flags, args, "firmware", "kernel", "initrd", "cmdline-file", "disk"); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("launch takes no argument, %q is one", flags.Arg(0))
	}
	if !*simulate {
		return hinted(errors.New("cannot launch: only simulated launches are built so far"), "--simulate boots the image anywhere, and protects nothing")
	}
	if err := readLaunch(&c, *cmdline, *disks); err != nil {
		return err
	}
	if *dryRun {
		words, err := launch.CommandLine(ctx, c)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, shellWords(words))
		return nil
	}
	if len(*secrets) > 0 {
		area, err := secretArea(c.Firmware)
		if err != nil {
			return err
		}
		table, err := buildTable(a, *secrets, area)
		if err != nil {
			return err
		}
		defer table.Close()
		c.SecretTable = table.Bytes()
	}
	if *timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *timeout)
		defer cancel()
	}
	fmt.Fprintln(a.stderr, "cocoroot: a simulated launch protects nothing: this host sees the secret and all of the guest's memory")
	c.Silence, c.OnSilence = silence, func() {
		fmt.Fprintf(a.stderr, "cocoroot: no word from the guest for %s: the firmware stands still when a hash does not match\n", silence)
	}
	outcome, err := launch.Run(ctx, c, a.stdout)
	return judge(outcome, err, *timeout)
}

// readLaunch reads what the verb's options name.
func readLaunch(c *launch.Config, cmdline string, disks []string) error {
	line, err := readCmdline(cmdline)
	if err != nil {
		return err
	}
	c.Cmdline = line
	for _, d := range disks {
		path, serial, _ := strings.Cut(d, ",serial=")
		c.Disks = append(c.Disks, launch.Disk{Path: path, Serial: serial})
	}
	return nil
}

// judge turns the end of the guest into the verb's.
func judge(o launch.Outcome, err error, timeout time.Duration) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return hinted(fmt.Errorf("the guest did not end within %s", timeout), "--timeout gives it more time")
	case errors.Is(err, ovmf.ErrNoArea), errors.Is(err, ovmf.ErrNoFooter):
		return hinted(err, "use OVMF's AmdSev build; ./build.sh firmware gets it")
	case err != nil:
		return err
	case o.Fatal != nil:
		code := map[fatal.Kind]int{fatal.Failed: exitFailed, fatal.Secret: exitSecret, fatal.Tampered: exitTampered}
		return &failure{code: code[fatal.KindOf(o.Fatal.Code)], err: fmt.Errorf("the guest refused to boot: %s", o.Fatal.Code)}
	case strings.Contains(o.Panic, "dm-verity"):
		return &failure{code: exitTampered, err: errors.New("the guest stopped at a block that is not the measured one")}
	case o.Panic != "":
		return fmt.Errorf("the guest's kernel stopped: %s", o.Panic)
	case o.Reason != "guest-shutdown":
		return fmt.Errorf("the guest did not power off (%s)", o.Reason)
	}
	return nil
}

// shellWords quotes words for a shell.
func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if w == "" || strings.ContainsAny(w, " \t'\"\\$&|;<>()*?[]{}~#!`") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}
