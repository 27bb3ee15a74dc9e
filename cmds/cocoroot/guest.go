package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure"
	"cocoroot/unlock/policy"
)

// maxID bounds the files of an ID block, in bytes: 4096 in base64, with line breaks.
const maxID = 8 << 10

// guestOptions are the options of launch and of template, as they were given.
type guestOptions struct {
	config           launch.Config
	cmdline, version string
	disks, states    []string // FILE; NAME=FILE
	scratch          string   // file
	sev              launch.SEV
	idBlock, idAuth  string // files
	unchecked        bool   // firmware
	given            func(name string) bool
}

func (o *guestOptions) register(cmd *cobra.Command) {
	c, s, flags := &o.config, &o.sev, cmd.Flags()
	o.given = flags.Changed
	flags.StringVar(&c.Firmware, "firmware", "", "OVMF built for measured direct boot (OVMF.amdsev.fd)")
	flags.StringVar(&c.Kernel, "kernel", "", "kernel (bzImage)")
	flags.StringVar(&c.Initrd, "initrd", "", "archive that cocoroot initrd wrote")
	flags.StringVar(&o.cmdline, "cmdline-file", "", "command line that cocoroot seal wrote")
	flags.StringArrayVar(&o.disks, "disk", nil, "sealed image, attached read-only as a virtio disk: `FILE` or FILE,serial=NAME")
	flags.StringArrayVar(&o.states, "state-disk", nil, "`NAME=FILE`: disk of the state that the command line calls NAME; may be repeated")
	flags.StringVar(&o.scratch, "scratch-disk", "", "disk for what the guest writes, of a command line that names one; what is on it is lost")
	flags.IntVar(&c.Memory, "memory", 1024, "memory of the guest, `MIB`")
	flags.IntVar(&c.CPUs, "vcpus", 1, "virtual CPUs of the guest")
	flags.StringVar(&c.QEMU, "qemu", "qemu-system-x86_64", "QEMU `PROGRAM`")
	flags.StringVar(&o.version, "qemu-version", "", "QEMU's `VERSION` on the host, such as 10.0 (default: as the program says here)")
	flags.StringVar(&c.QMPSocket, "qmp-socket", "", "where QEMU makes its QMP `SOCKET`, for cocoroot release; in a folder of mode 0700")
	flags.StringVar(&c.ChannelSocket, "channel", "", "sev-snp: where QEMU makes the `SOCKET` of the port at which a guest with cocoroot.owner= asks, for cocoroot release; in a folder of mode 0700")
	option(cmd, &s.HostData, "host-data", "sev-snp: HOST_DATA of the guest's reports, 64 `HEX` digits", parse32)
	flags.StringVar(&o.idBlock, "id-block", "", "sev-snp: file with an ID block in base64, as snpguest generate id-block writes it; goes with --id-auth")
	flags.StringVar(&o.idAuth, "id-auth", "", "sev-snp: file with that block's authentication information in base64")
	flags.Uint64Var(&s.Policy, "policy", 0, "the guest's `POLICY` (default: 0x3 for sev and 0x7 for sev-es, which forbid debugging and key sharing; 0x30000 for sev-snp)")
	flags.StringVar(&s.CPUType, "vcpu-type", "", "`TYPE` of the CPUs, QEMU's -cpu, such as EPYC-Milan, or host; as in cocoroot measure (sev: default EPYC)")
	option(cmd, &s.VMType, "vm-type", "sev-es: `TYPE` legacy or init2, as in cocoroot measure (default: legacy)", parseVMType)
	flags.StringVar(&s.Session, "session-file", "", "sev, sev-es: NAME_session.b64 that cocoroot secret session wrote")
	flags.StringVar(&s.DHCert, "dh-cert-file", "", "sev, sev-es: NAME_godh.b64 that cocoroot secret session wrote")
	flags.IntVar(&s.CBit, "cbitpos", 51, "position of the C-bit: 51 on Rome and later, 47 on Naples (launch asks the processor instead)")
	flags.IntVar(&s.ReducedPhysBits, "reduced-phys-bits", 1, "address bits that memory encryption takes")
	flags.BoolVar(&o.unchecked, "firmware-unchecked", false, "take firmware that is not cocoroot's own: it may let the host in before the measured kernel runs")
	choices(cmd, "vm-type", "legacy", "init2")
}

// parseDisks reads the disks' options. Each disk that the guest writes to, as its
// line says, needs a file, and there are no others.
func (o *guestOptions) parseDisks(p policy.Policy) error {
	for _, d := range o.disks {
		o.config.Disks = append(o.config.Disks, launch.ParseDisk(d))
	}
	given := map[string]string{} // files, by the options that give them
	if o.scratch != "" {
		given["--scratch-disk "] = o.scratch
	}
	for _, text := range o.states {
		name, path, _ := strings.Cut(text, "=")
		option := "--state-disk " + name + "="
		if name == "" || path == "" || given[option] != "" {
			return fault.Usagef("--state-disk: %.80q is not of the form NAME=FILE, each NAME once", text)
		}
		given[option] = path
	}
	add := func(option string, d policy.Disk) error {
		path := given[option]
		if path == "" {
			return fault.Usagef("the guest writes to the disk %s, as its command line says: %sFILE says what it is", d, option)
		}
		delete(given, option)
		if err := o.config.AddWritable(d, path); err != nil {
			return fault.Usagef("%w", err)
		}
		return nil
	}
	for _, s := range p.States {
		if err := add("--state-disk "+s.Name+"=", s.Disk); err != nil {
			return err
		}
	}
	if d := p.Overlay.Scratch; d != (policy.Disk{}) {
		if err := add("--scratch-disk ", d); err != nil {
			return err
		}
	}
	for option, path := range given {
		return fault.Usagef("%s%s: the command line has no such disk for the guest to write to", option, path)
	}
	return nil
}

// confidential makes the guest one of the mode. What it cannot be launched,
// measured or given a secret without is an error where it is missing; the socket
// only where QEMU is started by hand.
func (o *guestOptions) confidential(mode launch.Mode, socket bool) error {
	c, s, secret := &o.config, &o.sev, mode != launch.ModeSNP
	var lacks []string
	for _, want := range []struct {
		name       string
		has, needs bool
	}{
		{"--firmware", c.Firmware != "", true},
		{"--kernel", c.Kernel != "", true},
		{"--initrd", c.Initrd != "", true},
		{"--disk", len(o.disks) > 0, true},
		{"--session-file", s.Session != "", secret},
		{"--dh-cert-file", s.DHCert != "", secret},
		{"--vcpu-type", s.CPUType != "", mode != launch.ModeSEV},
		{"--qmp-socket", c.QMPSocket != "", secret && socket},
	} {
		if want.needs && !want.has {
			lacks = append(lacks, want.name)
		}
	}
	if err := missingOptions(lacks...); err != nil {
		if secret && (s.Session == "" || s.DHCert == "") {
			err = fault.Hintf(err, "cocoroot secret session writes NAME_session.b64 and NAME_godh.b64, from the platform's certificates")
		}
		return err
	}
	s.Mode = mode
	if !o.given("policy") {
		s.Policy = mode.Policy()
	}
	if s.CPUType == "" {
		s.CPUType = "EPYC" // for sev, which measures none; every processor with SEV has what it has
	}
	c.SEV = s
	return o.readID()
}

// readID reads the ID block, if there is one.
func (o *guestOptions) readID() error {
	if (o.idBlock == "") != (o.idAuth == "") {
		return fault.Usagef("options --id-block and --id-auth belong together")
	}
	if o.idBlock == "" {
		return nil
	}
	block, err := files.Read(o.idBlock, maxID)
	if err != nil {
		return err
	}
	auth, err := files.Read(o.idAuth, maxID)
	if err != nil {
		return err
	}
	o.sev.ID, err = launch.ParseID(block, auth)
	return err
}

// checkChannel wants a socket for a port at which the guest asks, and says what
// other ways of asking need from the host.
func (o *guestOptions) checkChannel(a *app) error {
	channel := o.config.Channel
	switch {
	case o.sev.Mode != launch.ModeSNP: // refused elsewhere
	case o.config.AsksAtSocket() && o.config.ChannelSocket == "":
		return fault.Hintf(missingOptions("--channel"), "the guest asks for its secrets at %s, as its command line says: --channel DIR/SOCKET is where QEMU makes that port's socket, in a folder of mode 0700", channel)
	case channel.Kind == policy.TCP && len(o.config.Forwards) == 0:
		a.note("the guest asks for its secrets at %s: a network card that leads there is the host's to give (launch --forward: QEMU's own, where the host is 10.0.2.2)", channel)
	case channel.Kind == policy.Vsock:
		a.note("the guest asks for its secrets at %s: -device vhost-vsock-pci,guest-cid=N is the host's to give, in what cocoroot template writes", channel)
	}
	return nil
}

func parseVMType(name string) (measure.VMType, error) {
	switch name {
	case "legacy":
		return measure.Legacy, nil
	case "init2":
		return measure.Init2, nil
	}
	return 0, fmt.Errorf("there is no VM type %.32q; it is legacy or init2", name)
}
