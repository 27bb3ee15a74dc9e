package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/release"
	"cocoroot/templates"
	"cocoroot/unlock/policy"
)

// templateNames are the files that can be made, each for a mode.
func templateNames() []string {
	var names []string
	for _, kind := range []string{"qemu-", "libvirt-"} {
		for _, mode := range []launch.Mode{launch.ModeSEV, launch.ModeES, launch.ModeSNP} {
			names = append(names, kind+mode.String())
		}
	}
	return names
}

// templateOptions are the options of the verb as they were given.
type templateOptions struct {
	output            string
	force             bool
	manifest, cmdline string
	name, disk        string
	qemuVersion       string
	config            launch.Config
	sev               sevOptions
}

func (a *app) template() *cobra.Command {
	var o templateOptions
	c := verb("template [NAME --manifest F --firmware F --kernel F --initrd F --disk IMAGE … [-o FILE]]",
		"write launch files for QEMU and libvirt; without NAME, list them",
		"  cocoroot template libvirt-sev-es --manifest image.manifest.json --firmware /srv/OVMF.amdsev.fd --kernel /srv/bzImage \\\n    --initrd /srv/initrd.img --disk /srv/image --vcpu-type EPYC-Milan --session-file vm_session.b64 --dh-cert-file vm_godh.b64",
		func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fault.Usagef("template takes one name, %.40q is another", args[1])
			case len(args) == 1 && !slices.Contains(templateNames(), args[0]):
				return fault.New(fault.Usage, fmt.Errorf("there is no template %.40q", args[0]), "cocoroot template lists them")
			}
			return nil
		})
	c.ValidArgs = templateNames()
	flags := c.Flags()
	flags.StringVarP(&o.output, "output", "o", "", "where to write the file (default: standard output)")
	flags.BoolVar(&o.force, "force", false, "replace an existing file")
	flags.StringVar(&o.manifest, "manifest", "", "IMAGE.manifest.json that cocoroot seal wrote: the command line, and the disk's serial number")
	flags.StringVar(&o.cmdline, "cmdline-file", "", "instead: command line that cocoroot seal wrote")
	flags.StringVar(&o.config.Firmware, "firmware", "", "the guest's OVMF; this and the files below are paths on the host, which libvirt's session files are not")
	flags.StringVar(&o.config.Kernel, "kernel", "", "kernel (bzImage)")
	flags.StringVar(&o.config.Initrd, "initrd", "", "archive that cocoroot initrd wrote")
	flags.StringVar(&o.disk, "disk", "", "sealed image: FILE or FILE,serial=NAME")
	flags.StringVar(&o.name, "name", "cocoroot", "libvirt: name of the domain")
	flags.IntVar(&o.config.Memory, "memory", 1024, "memory of the guest, MiB")
	flags.IntVar(&o.config.CPUs, "vcpus", 1, "virtual CPUs of the guest")
	o.sev.register(c)
	flags.StringVar(&o.config.QMPSocket, "qmp-socket", "", "QEMU: where it makes its QMP socket; in a folder of mode 0700")
	flags.StringVar(&o.config.QEMU, "qemu", "qemu-system-x86_64", "QEMU: the program")
	flags.StringVar(&o.qemuVersion, "qemu-version", "", "QEMU: its version on the host, such as 10.0 (default: as the program says here)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			_, err := fmt.Fprintln(a.stdout, strings.Join(templateNames(), "\n"))
			return err
		}
		return a.writeTemplate(c.Context(), o, args[0])
	}
	return c
}

func (a *app) writeTemplate(ctx context.Context, o templateOptions, name string) error {
	kind, modeName, _ := strings.Cut(name, "-")
	mode, err := launch.ParseMode(modeName)
	if err != nil {
		return err
	}
	if err := o.read(mode); err != nil {
		return err
	}
	if err := a.wantOwn(o.config.Firmware, o.sev.unchecked); err != nil {
		return err
	}
	var text []byte
	if kind == "libvirt" {
		text, err = o.libvirt()
	} else {
		text, err = o.script(ctx)
	}
	switch {
	case errors.Is(err, launch.ErrConfig):
		return fault.Usagef("%w", err)
	case err != nil:
		return explainLaunch(fmt.Errorf("cannot fill in %s: %w", name, err))
	case o.output == "":
		_, err := a.stdout.Write(text)
		return err
	}
	return files.Write(o.force, files.Public(o.output, text))
}

// read reads what the options name. The files that the host opens need not be
// here.
func (o *templateOptions) read(mode launch.Mode) error {
	c, disk := &o.config, launch.ParseDisk(o.disk)
	var lacks []string
	for _, p := range [][2]string{{"firmware", c.Firmware}, {"kernel", c.Kernel}, {"initrd", c.Initrd}, {"disk", disk.Path}} {
		if p[1] == "" {
			lacks = append(lacks, "--"+p[0])
		} else if err := onHost(p[0], p[1]); err != nil {
			return err
		}
	}
	if err := missingOptions(append(lacks, o.sev.missing(mode)...)...); err != nil {
		return err
	}
	if c.CPUs < 1 || c.Memory < 1 {
		return fault.Usagef("--vcpus and --memory are at least 1")
	}
	line, err := readReference(o.manifest, o.cmdline)
	if err != nil {
		return err
	}
	p, err := policy.Parse(line)
	if err != nil {
		return fmt.Errorf("the guest would refuse the command line: %w", err)
	}
	if p.Disk.Kind == policy.BySerial {
		if disk.Serial != "" && disk.Serial != p.Disk.Name {
			return fault.Usagef("the disk's serial number is %q, and the command line looks for %q", disk.Serial, p.Disk.Name)
		}
		disk.Serial = p.Disk.Name
	}
	sev, err := o.sev.read(mode)
	if err != nil {
		return err
	}
	c.Cmdline, c.Disks, c.SEV = line, []launch.Disk{disk}, &sev
	return nil
}

// onHost refuses a path that means another file in each folder.
func onHost(option, path string) error {
	if path != "" && !filepath.IsAbs(path) {
		return fault.Usagef("--%s: %q is not an absolute path, and the host needs one to open the file", option, path)
	}
	return nil
}

// readReference reads the command line from a manifest or a command-line file.
func readReference(manifestFile, cmdlineFile string) (string, error) {
	if (manifestFile == "") == (cmdlineFile == "") {
		return "", fault.Usagef("give one of --manifest and --cmdline-file")
	}
	if cmdlineFile != "" {
		return cmdline.ReadFile(cmdlineFile)
	}
	b, err := files.Read(manifestFile, manifest.MaxSize)
	if err != nil {
		return "", err
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return "", fmt.Errorf("cannot read the manifest %s: %w", manifestFile, err)
	}
	return m.Cmdline, nil
}

// script returns QEMU's command.
func (o *templateOptions) script(ctx context.Context) ([]byte, error) {
	c, s := &o.config, o.config.SEV
	if s.TakesSecret() && c.QMPSocket == "" {
		return nil, missingOptions("--qmp-socket") // cocoroot release needs it
	}
	for _, p := range [][2]string{{"qmp-socket", c.QMPSocket}, {"session-file", s.Session}, {"dh-cert-file", s.DHCert}} {
		if err := onHost(p[0], p[1]); err != nil {
			return nil, err
		}
	}
	// They are the host's; the owner may have them here, and then they are looked at.
	if _, err := os.Stat(s.Session); err == nil {
		if _, _, err := release.ReadSession(s.Session, s.DHCert); err != nil {
			return nil, err
		}
	}
	v, err := qemuVersion(ctx, o.qemuVersion, c.QEMU)
	if err != nil {
		return nil, err
	}
	text, err := launch.Script(*c, v)
	return []byte(text), err
}

// qemuVersion returns the release that was given, or that the program says.
func qemuVersion(ctx context.Context, given, program string) (launch.Version, error) {
	if given != "" {
		v, err := launch.ParseVersion(given)
		if err != nil {
			err = fault.Usagef("--qemu-version: %w", err)
		}
		return v, err
	}
	v, err := launch.QEMUVersion(ctx, program)
	if err != nil {
		err = fault.Hintf(err, "--qemu-version says which one the host has")
	}
	return v, err
}

// libvirt returns the description of a domain.
func (o *templateOptions) libvirt() (text []byte, err error) {
	o.config.QMPSocket = "libvirt's own"
	if err := o.config.Check(); err != nil {
		return nil, err
	}
	d := launch.Domain{Config: o.config, Name: o.name}
	if o.config.SEV.TakesSecret() {
		if d.SessionText, d.DHCertText, err = release.ReadSession(o.config.SEV.Session, o.config.SEV.DHCert); err != nil {
			return nil, err
		}
	}
	return launch.Libvirt(templates.Launch(), d)
}
