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

// settingsFile is the name of the file that create --settings takes.
const settingsFile = "settings"

// templateNames are the files that can be made, each for a mode but the settings.
func templateNames() []string {
	names := []string{settingsFile}
	for _, kind := range []string{"qemu-", "libvirt-"} {
		for _, mode := range launch.Modes() {
			names = append(names, kind+mode)
		}
	}
	return names
}

// templateOptions are the options of the verb as they were given.
type templateOptions struct {
	guestOptions
	output, manifest, name string
	force                  bool
}

func (a *app) template() *cobra.Command {
	var o templateOptions
	c := verb("template [NAME --manifest F --firmware F --kernel F --initrd F --disk IMAGE … [-o FILE]]",
		"write launch files for QEMU and libvirt; without NAME, list them",
		"  cocoroot template libvirt-sev-es --manifest image.manifest.json --firmware /srv/OVMF.amdsev.fd --kernel /srv/bzImage \\\n    --initrd /srv/initrd.img --disk /srv/image --vcpu-type EPYC-Milan --session-file vm_session.b64 --dh-cert-file vm_godh.b64",
		takes(0, 1, "one name"))
	c.Long = "What it names are files on the host, by absolute paths. libvirt's description\nhas the session itself in it, so these two files are read here."
	c.ValidArgs = templateNames()
	flags := c.Flags()
	flags.StringVarP(&o.output, "output", "o", "", "where to write the file (default: standard output)")
	flags.BoolVar(&o.force, "force", false, "replace an existing file")
	flags.StringVar(&o.manifest, "manifest", "", "IMAGE.manifest.json that cocoroot seal wrote, instead of the command line: has that, and the disk's serial number")
	flags.StringVar(&o.name, "name", "cocoroot", "libvirt: `NAME` of the domain")
	o.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			fmt.Fprintln(a.stdout, strings.Join(templateNames(), "\n"))
			return nil
		}
		switch {
		case args[0] == settingsFile:
			return o.write(a.stdout, []byte(templates.Settings()))
		case !slices.Contains(templateNames(), args[0]):
			return fault.New(fault.Usage, fmt.Errorf("there is no template %.40q", args[0]), "cocoroot template lists them")
		}
		return a.writeTemplate(c.Context(), o, args[0])
	}
	return c
}

func (a *app) writeTemplate(ctx context.Context, o templateOptions, name string) error {
	kind, mode, _ := strings.Cut(name, "-")
	if err := o.confidential(launch.Mode(mode), kind == "qemu"); err != nil {
		return err
	}
	if err := o.read(); err != nil {
		return err
	}
	if err := o.checkChannel(a); err != nil {
		return err
	}
	if err := a.wantOwn(o.config.Firmware, o.unchecked); err != nil {
		return err
	}
	fill := o.script
	if kind == "libvirt" {
		fill = o.libvirt
	}
	text, err := fill(ctx)
	switch {
	case errors.Is(err, launch.ErrConfig):
		return fault.Usagef("%w", err)
	case err != nil:
		return fmt.Errorf("cannot fill in %s: %w", name, err)
	}
	return o.write(a.stdout, text)
}

// write writes the file, or prints it.
func (o *templateOptions) write(w io.Writer, text []byte) error {
	if o.output == "" {
		_, err := w.Write(text)
		return err
	}
	return files.Write(o.force, files.Public(o.output, text))
}

// read reads what the options name. The files that the host opens need not be
// here.
func (o *templateOptions) read() error {
	c := &o.config
	if err := cmp.Or(onHost("firmware", c.Firmware), onHost("kernel", c.Kernel), onHost("initrd", c.Initrd), onHost("channel", c.ChannelSocket)); err != nil {
		return err
	}
	if c.CPUs < 1 || c.Memory < 1 {
		return fault.Usagef("--vcpus and --memory are at least 1")
	}
	line, p, err := readReference(o.manifest, o.cmdline)
	if err != nil {
		return err
	}
	o.disks = o.disks[len(o.disks)-1:] // a template has one image; the last counts
	if err := o.parseDisks(p); err != nil {
		return err
	}
	for _, d := range c.Disks {
		if err := onHost("disk", d.Path); err != nil {
			return err
		}
	}
	disk := &c.Disks[0]
	if p.Disk.Kind == policy.BySerial {
		if disk.Serial != "" && disk.Serial != p.Disk.Name {
			return fault.Usagef("the disk's serial number is %q, and the command line looks for %q", disk.Serial, p.Disk.Name)
		}
		disk.Serial = p.Disk.Name
	}
	c.Cmdline, c.Channel = line, p.Release.Channel
	return nil
}

// onHost refuses an option's path that means another file in each folder.
func onHost(option, path string) error {
	if path == "" || filepath.IsAbs(path) {
		return nil
	}
	return fault.Usagef("--%s: %q is not an absolute path, and the host needs one to open the file", option, path)
}

// readReference reads the command line from a manifest or a command-line file.
func readReference(manifestFile, cmdlineFile string) (line string, p policy.Policy, err error) {
	if (manifestFile == "") == (cmdlineFile == "") {
		return "", p, fault.Usagef("give one of --manifest and --cmdline-file")
	}
	if cmdlineFile != "" {
		return cmdline.ReadPolicy(cmdlineFile)
	}
	b, err := files.Read(manifestFile, manifest.MaxSize)
	if err != nil {
		return "", p, err
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return "", p, fmt.Errorf("cannot read the manifest %s: %w", manifestFile, err)
	}
	p, err = policy.Parse(m.Cmdline)
	return m.Cmdline, p, err
}

// script returns QEMU's command.
func (o *templateOptions) script(ctx context.Context) ([]byte, error) {
	s := &o.sev
	if err := cmp.Or(onHost("qmp-socket", o.config.QMPSocket), onHost("session-file", s.Session), onHost("dh-cert-file", s.DHCert)); err != nil {
		return nil, err
	}
	// They are the host's; the owner may have them here, and then they are looked at.
	if _, err := os.Stat(s.Session); err == nil {
		if _, _, err := release.ReadSession(s.Session, s.DHCert); err != nil {
			return nil, err
		}
	}
	v, err := o.qemuVersion(ctx)
	if err != nil {
		return nil, err
	}
	text, err := launch.Script(templates.Launch(), o.config, v)
	if errors.Is(err, launch.ErrQEMU) && o.version == "" {
		err = fault.Hintf(err, "--qemu-version says which one the host has, such as "+newQEMU)
	}
	return text, err
}

// qemuVersion returns the release that was given, or that the program says.
func (o *guestOptions) qemuVersion(ctx context.Context) (launch.Version, error) {
	if o.version != "" {
		v, err := launch.ParseVersion(o.version)
		if err != nil {
			err = fault.Usagef("--qemu-version: %w", err)
		}
		return v, err
	}
	v, err := launch.QEMUVersion(ctx, o.config.QEMU)
	if err != nil {
		err = fault.Hintf(err, "--qemu-version says which one the host has")
	}
	return v, err
}

// libvirt returns the description of a domain.
func (o *templateOptions) libvirt(context.Context) (text []byte, err error) {
	o.config.QMPSocket = "libvirt's own"
	if err := o.config.Check(); err != nil {
		return nil, err
	}
	d := launch.Domain{Config: o.config, Name: o.name}
	if o.sev.TakesSecret() {
		if d.SessionText, d.DHCertText, err = release.ReadSession(o.sev.Session, o.sev.DHCert); err != nil {
			return nil, err
		}
	}
	return launch.Libvirt(templates.Launch(), d)
}
