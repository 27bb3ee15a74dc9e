package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/template"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/release/packet"
	"cocoroot/templates"
	"cocoroot/unlock/policy"
)

// maxSessionFile bounds a file of cocoroot secret session in bytes.
const maxSessionFile = 16 << 10

// errNoXML is returned for text that no XML document can hold.
var errNoXML = errors.New("a control character, or no UTF-8, which XML cannot hold")

// launchTemplate is one of the files that can be filled in.
type launchTemplate struct {
	name, file string
	brief      string
	kind       templateKind
	mode       launch.Mode // none for KubeVirt, which has no measured direct boot
}

type templateKind int

const (
	forQEMU templateKind = iota + 1
	forLibvirt
	forSession // what a session's files hold
	forSecret  // what a packet holds
)

func launchTemplates() []launchTemplate {
	return []launchTemplate{
		{"qemu-sev", "qemu-sev.sh", "QEMU command, SEV", forQEMU, launch.ModeSEV},
		{"qemu-sev-es", "qemu-sev-es.sh", "QEMU command, SEV-ES", forQEMU, launch.ModeES},
		{"qemu-sev-snp", "qemu-sev-snp.sh", "QEMU command, SEV-SNP", forQEMU, launch.ModeSNP},
		{"libvirt-sev", "libvirt-sev.xml", "libvirt domain, SEV", forLibvirt, launch.ModeSEV},
		{"libvirt-sev-es", "libvirt-sev.xml", "libvirt domain, SEV-ES", forLibvirt, launch.ModeES},
		{"libvirt-sev-snp", "libvirt-sev-snp.xml", "libvirt domain, SEV-SNP", forLibvirt, launch.ModeSNP},
		{"kubevirt-session", "kubevirt-session.json", "body of KubeVirt's sev/setupsession", forSession, 0},
		{"kubevirt-secret", "kubevirt-secret.json", "body of KubeVirt's sev/injectlaunchsecret", forSecret, 0},
	}
}

// templateOptions are the options of the verb as they were given.
type templateOptions struct {
	output            string
	force             bool
	manifest, cmdline string
	name, disk        string
	firmware          string
	kernel, initrd    string
	qemu, qemuVersion string
	qmpSocket, packet string
	memory, vcpus     int
	sev               sevOptions
}

func (o *templateOptions) register(flags *pflag.FlagSet) {
	flags.StringVarP(&o.output, "output", "o", "", "where to write the file (default: standard output)")
	flags.BoolVar(&o.force, "force", false, "replace an existing file")
	flags.StringVar(&o.manifest, "manifest", "", "IMAGE.manifest.json that cocoroot seal wrote: the command line, and the disk's serial number")
	flags.StringVar(&o.cmdline, "cmdline-file", "", "instead: command line that cocoroot seal wrote")
	flags.StringVar(&o.firmware, "firmware", "", "the guest's OVMF; this and the files below are paths on the host, which libvirt's session files are not")
	flags.StringVar(&o.kernel, "kernel", "", "kernel (bzImage)")
	flags.StringVar(&o.initrd, "initrd", "", "archive that cocoroot initrd wrote")
	flags.StringVar(&o.disk, "disk", "", "sealed image: FILE or FILE,serial=NAME")
	flags.StringVar(&o.name, "name", "cocoroot", "libvirt: name of the domain")
	flags.IntVar(&o.memory, "memory", 1024, "memory of the guest, MiB")
	flags.IntVar(&o.vcpus, "vcpus", 1, "virtual CPUs of the guest")
	o.sev.register(flags)
	flags.StringVar(&o.qmpSocket, "qmp-socket", "", "QEMU: where it makes its QMP socket; in a folder of mode 0700")
	flags.StringVar(&o.qemu, "qemu", "qemu-system-x86_64", "QEMU: the program")
	flags.StringVar(&o.qemuVersion, "qemu-version", "", "QEMU: its version on the host, such as 10.0 (default: as the program says here)")
	flags.StringVar(&o.packet, "packet", "", "kubevirt-secret: NAME_packet.json that cocoroot release verify wrote")
}

func (a *app) template() *cobra.Command {
	var o templateOptions
	c := verb("template [NAME --manifest F --firmware F --kernel F --initrd F --disk IMAGE … [-o FILE]]", "write launch files for QEMU, libvirt and KubeVirt; without NAME, list them",
		"  cocoroot template libvirt-sev-es --manifest image.manifest.json --firmware /srv/OVMF.amdsev.fd --kernel /srv/bzImage \\\n    --initrd /srv/initrd.img --disk /srv/image --vcpu-type EPYC-Milan --session-file vm_session.b64 --dh-cert-file vm_godh.b64",
		cobra.ArbitraryArgs)
	o.register(c.Flags())
	for _, t := range launchTemplates() {
		c.ValidArgs = append(c.ValidArgs, t.name)
	}
	c.RunE = func(c *cobra.Command, args []string) error { return a.writeTemplate(c.Context(), o, args) }
	return c
}

func (a *app) writeTemplate(ctx context.Context, o templateOptions, args []string) error {
	if len(args) == 0 {
		for _, t := range launchTemplates() {
			fmt.Fprintf(a.stdout, "%-16s  %s\n", t.name, t.brief)
		}
		return nil
	}
	if len(args) > 1 {
		return fault.Usagef("template takes one name, %q is another", args[1])
	}
	for _, t := range launchTemplates() {
		if t.name == args[0] {
			return o.write(ctx, a, t)
		}
	}
	return fault.New(fault.Usage, fmt.Errorf("there is no template %.40q", args[0]), "cocoroot template lists them")
}

// write fills in one template.
func (o *templateOptions) write(ctx context.Context, a *app, t launchTemplate) error {
	fields, err := o.fields(ctx, a, t)
	if err != nil {
		return err
	}
	text, err := fill(t.file, fields)
	if err != nil {
		return fmt.Errorf("cannot fill in %s: %w", t.name, err)
	}
	if o.output == "" {
		_, err := a.stdout.Write(text)
		return err
	}
	return files.Write(o.force, files.Public(o.output, text))
}

// templateFields are what the templates take.
type templateFields struct {
	launch.SEV
	Name, QEMU               string
	Cmdline                  string
	Firmware, Kernel, Initrd string
	Disk, Serial             string
	Block                    bool // the disk is a block device
	Memory, HardLimit        int  // MiB
	CPUs                     int
	LegacyVMType, QMPSocket  string
	SessionText, DHCertText  string // what the session's files hold
	Header, Secret           string // what the packet holds, in base64
}

// overhead is what QEMU may need beside the guest's memory, in MiB.
const overhead = 1024

// fields reads what the options name. The files that the host opens need not
// be here.
func (o *templateOptions) fields(ctx context.Context, a *app, t launchTemplate) (*templateFields, error) {
	f := &templateFields{Name: o.name, QEMU: o.qemu, Memory: o.memory, HardLimit: o.memory + overhead, CPUs: o.vcpus}
	switch t.kind {
	case forSecret:
		return f, o.readPacket(f)
	case forSession:
		return f, o.readSession(f)
	}
	if err := o.sev.missingSession(t.mode); err != nil {
		return nil, err
	}
	if err := o.readGuest(f); err != nil {
		return nil, err
	}
	var err error
	if f.SEV, err = o.sev.read(t.mode); err != nil {
		return nil, err
	}
	c := launch.Config{
		Firmware: f.Firmware, Kernel: f.Kernel, Initrd: f.Initrd, Cmdline: f.Cmdline, Memory: f.Memory, CPUs: f.CPUs,
		Disks: []launch.Disk{{Path: f.Disk, Serial: f.Serial}}, SEV: &f.SEV,
	}
	if t.kind == forLibvirt {
		c.QMPSocket = "libvirt's own"
		err = o.forLibvirt(f)
	} else {
		c.QMPSocket = o.qmpSocket
		err = o.forQEMU(ctx, f)
	}
	if err != nil {
		return nil, err
	}
	if err := c.Check(); err != nil {
		return nil, fault.Usagef("%w", err)
	}
	return f, a.wantOwn(f.Firmware, o.sev.unchecked)
}

// readGuest sets what is the same for QEMU and libvirt.
func (o *templateOptions) readGuest(f *templateFields) error {
	disk := parseDisk(o.disk)
	for _, p := range []struct {
		option, value string
		to            *string
	}{
		{"firmware", o.firmware, &f.Firmware}, {"kernel", o.kernel, &f.Kernel}, {"initrd", o.initrd, &f.Initrd}, {"disk", disk.Path, &f.Disk},
	} {
		if p.value == "" {
			return fault.Usagef("option --%s is missing", p.option)
		}
		if err := onHost(p.option, p.value); err != nil {
			return err
		}
		*p.to = p.value
	}
	f.Serial, f.Block = disk.Serial, strings.HasPrefix(f.Disk, "/dev/")
	if o.vcpus < 1 || o.memory < 1 {
		return fault.Usagef("--vcpus and --memory are at least 1")
	}
	if err := o.readLine(f); err != nil {
		return err
	}
	p, err := policy.Parse(f.Cmdline)
	if err != nil {
		return fmt.Errorf("the guest would refuse the command line: %w", err)
	}
	if p.Disk.Kind == policy.BySerial {
		if f.Serial != "" && f.Serial != p.Disk.Name {
			return fault.Usagef("the disk's serial number is %q, and the command line looks for %q", f.Serial, p.Disk.Name)
		}
		f.Serial = p.Disk.Name
	}
	return nil
}

// onHost refuses a path that means another file in each folder.
func onHost(option, path string) error {
	if !filepath.IsAbs(path) {
		return fault.Usagef("--%s: %q is no absolute path, which it has to be, for the host opens it", option, path)
	}
	return nil
}

// readLine reads the command line from the one of two files.
func (o *templateOptions) readLine(f *templateFields) (err error) {
	f.Cmdline, err = readReference(o.manifest, o.cmdline)
	return err
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

// forQEMU sets what only QEMU's command takes.
func (o *templateOptions) forQEMU(ctx context.Context, f *templateFields) error {
	if f.TakesSecret() && o.qmpSocket == "" {
		return fault.Usagef("option --qmp-socket is missing: cocoroot release needs it to give the guest its secret")
	}
	for _, p := range [][2]string{{"qmp-socket", o.qmpSocket}, {"session-file", f.Session}, {"dh-cert-file", f.DHCert}} {
		if p[1] == "" {
			continue
		}
		if err := onHost(p[0], p[1]); err != nil {
			return err
		}
	}
	f.QMPSocket = o.qmpSocket
	version, err := o.version(ctx)
	if err != nil {
		return err
	}
	f.LegacyVMType = f.SEV.LegacyVMType(version)
	return explainLaunch(f.CheckVersion(version))
}

// version returns the QEMU's that the command is for.
func (o *templateOptions) version(ctx context.Context) (launch.Version, error) {
	if o.qemuVersion != "" {
		v, err := launch.ParseVersion(o.qemuVersion)
		if err != nil {
			return v, fault.Usagef("--qemu-version: %w", err)
		}
		return v, nil
	}
	v, err := launch.QEMUVersion(ctx, o.qemu)
	if err != nil {
		return v, fault.Hintf(err, "--qemu-version says which one the host has")
	}
	return v, nil
}

// forLibvirt sets what only libvirt's description takes.
func (o *templateOptions) forLibvirt(f *templateFields) error {
	switch {
	case f.Name == "" || strings.ContainsAny(f.Name, "/\n"):
		return fault.Usagef("--name: %q is no name of a domain", f.Name)
	case f.VMType != measure.Legacy:
		return fault.Usagef("--vm-type: libvirt has no way to ask for init2")
	case f.TakesSecret():
		return o.readSession(f)
	}
	return nil
}

// readSession reads the files of a session.
func (o *templateOptions) readSession(f *templateFields) (err error) {
	if err := o.sev.missingSession(launch.ModeES); err != nil {
		return err
	}
	if f.SessionText, err = readBase64(o.sev.session); err != nil {
		return err
	}
	f.DHCertText, err = readBase64(o.sev.dhCert)
	return err
}

// readBase64 reads one value in base64 as it stands in the file.
func readBase64(path string) (string, error) {
	b, err := files.Read(path, maxSessionFile)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if raw, err := base64.StdEncoding.Strict().DecodeString(text); err != nil || len(raw) == 0 || strings.ContainsAny(text, "\r\n") {
		return "", fault.Hintf(fmt.Errorf("cannot use %s: it is not one line of base64", path), "cocoroot secret session writes NAME_session.b64 and NAME_godh.b64")
	}
	return text, nil
}

// readPacket reads a packet, which is encrypted.
func (o *templateOptions) readPacket(f *templateFields) error {
	if o.packet == "" {
		return fault.Usagef("option --packet is missing")
	}
	b, err := files.Read(o.packet, packet.MaxFile)
	if err != nil {
		return err
	}
	p, _, err := packet.Decode(b)
	if err != nil {
		return fmt.Errorf("cannot read the packet %s: %w", o.packet, err)
	}
	f.Header, f.Secret = string(inBase64(p.Header.Bytes())), string(inBase64(p.Payload))
	return nil
}

// fill returns a template with the fields in it, each quoted for where it
// stands.
func fill(file string, fields *templateFields) ([]byte, error) {
	t := template.New(file).Funcs(template.FuncMap{
		"sh":    shellWord,
		"comma": func(s string) string { return strings.ReplaceAll(s, ",", ",,") }, // separates QEMU's options
		"hex":   func(n uint64) string { return fmt.Sprintf("%#x", n) },
		"json":  func(s string) (string, error) { b, err := json.Marshal(s); return string(b), err },
		"xml":   xmlText,
	})
	if _, err := t.ParseFS(templates.Launch(), "launch/"+file); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, fields); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// xmlText escapes text for an element or an attribute. What XML cannot hold is
// an error, for EscapeText would replace it.
func xmlText(s string) (string, error) {
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		if r < ' ' || r == utf8.RuneError && size == 1 || r == 0xfffe || r == 0xffff {
			return "", fmt.Errorf("%w: %.40q", errNoXML, s)
		}
	}
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}
