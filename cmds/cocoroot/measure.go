package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/image/manifest"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/policy"
)

// measureOptions are the options of the verb as they were given.
type measureOptions struct {
	mode                 launch.Mode
	firmware             string
	kernel, initrd       string
	cmdline, cmdlineFile string
	hashes               measure.HashesTable // those that are given as such
	vcpus                int
	signature            measure.Signature
	vmType               measure.VMType
	features             measure.Features
	vmm                  measure.VMM
	given                func(name string) bool
	asJSON               bool
}

func (a *app) measure() *cobra.Command {
	c := verb("measure --mode MODE --firmware F [--kernel F [--initrd F] [--cmdline-file F]] [--vcpus N --vcpu-type NAME]",
		"compute the launch digest to expect",
		"  cocoroot measure --mode sev-snp --firmware OVMF.amdsev.fd --kernel bzImage --initrd initrd.img \\\n    --cmdline-file image.cmdline --vcpus 4 --vcpu-type EPYC-Milan", noArgs)
	flags := c.Flags()
	o := measureOptions{given: flags.Changed, signature: 1, vmType: measure.Legacy, vmm: measure.QEMU} // signature: any
	option(c, &o.mode, "mode", "`MODE` sev, sev-es or sev-snp", launch.ParseMode)
	flags.StringVar(&o.firmware, "firmware", "", "OVMF image, as the host passes it to QEMU")
	flags.StringVar(&o.kernel, "kernel", "", "kernel (default: none, so no kernel hashes)")
	flags.StringVar(&o.initrd, "initrd", "", "archive that cocoroot initrd wrote (default: none)")
	flags.StringVar(&o.cmdline, "cmdline", "", "kernel command line, `TEXT`")
	flags.StringVar(&o.cmdlineFile, "cmdline-file", "", "command line that cocoroot seal wrote")
	for _, b := range blobs(&o.hashes) {
		option(c, b.hash, b.name+"-hash", "instead of --"+b.name+": its SHA-256 in `HEX`, as --json prints it; a command line's is with a NUL at its end", parse32)
	}
	flags.IntVar(&o.vcpus, "vcpus", 0, "virtual CPUs of the guest; sev measures none")
	option(c, &o.signature, "vcpu-type", "`TYPE` of the CPUs, QEMU's -cpu, such as EPYC-Milan; sev measures none", measure.LookupCPUType)
	option(c, &o.signature, "vcpu-sig", "instead of the type: CPUID `SIGNATURE`, such as 0xa00f11 or 25/1/1 (family/model/stepping)", measure.ParseSignature)
	option(c, &o.vmType, "vm-type", "sev-es: `TYPE` legacy or init2 (default: legacy as QEMU's, init2 with guest features)", parseVMType)
	option(c, &o.features, "guest-features", "SEV features of the guest, `BITS` (default: 0x1 for sev-snp, 0 for sev-es)", measure.ParseFeatures)
	option(c, &o.vmm, "vmm", "sev-snp without a kernel: the `VMM` that starts the virtual CPUs: qemu, ec2 or gce (default: qemu)", measure.ParseVMM)
	flags.BoolVar(&o.asJSON, "json", false, "print every intermediate value too")
	need(c, "mode", "firmware")
	choices(c, "mode", launch.Modes()...)
	choices(c, "vm-type", "legacy", "init2")
	choices(c, "vmm", "qemu", "ec2", "gce")
	c.RunE = func(*cobra.Command, []string) error { return a.printMeasurement(o) }
	return c
}

// blob is what has a hash in the table.
type blob struct {
	name string
	hash *[sha256.Size]byte
}

func blobs(t *measure.HashesTable) []blob {
	return []blob{{"kernel", &t.Kernel}, {"initrd", &t.Initrd}, {"cmdline", &t.Cmdline}}
}

// hasKernel reports whether there is a kernel to be measured.
func (o *measureOptions) hasKernel() bool { return o.given("kernel") || o.given("kernel-hash") }

func (a *app) printMeasurement(o measureOptions) error {
	in, err := o.check()
	if err != nil {
		return err
	}
	if err := o.read(&in); err != nil {
		return err
	}
	result, err := in.Digest(string(o.mode))
	switch {
	case errors.Is(err, measure.ErrCPUs):
		return fault.Usagef("%w", err)
	case errors.Is(err, ovmf.ErrNoArea), errors.Is(err, ovmf.ErrTooLong):
		return fault.Hintf(err, "a kernel is measured with OVMF's AmdSev build; ./build.sh firmware gets it")
	case err != nil:
		return err
	}
	a.warnForeign(in.Firmware.SHA256())
	if o.asJSON {
		printJSON(a.stdout, result)
	} else {
		fmt.Fprintf(a.stdout, "%x\n", result.Digest)
	}
	return nil
}

// check checks that the options fit together, and takes those that name no file.
// Mode sev measures no virtual CPUs: there they may be given, so that a script
// can use the same options for each mode.
func (o *measureOptions) check() (in measure.Input, err error) {
	sev, snp := o.mode == launch.ModeSEV, o.mode == launch.ModeSNP
	for _, wrong := range []struct {
		is   bool
		text string
	}{
		{!o.hasKernel() && slices.ContainsFunc([]string{"initrd", "initrd-hash", "cmdline", "cmdline-file", "cmdline-hash"}, o.given), "an initrd or a command line is measured only with a kernel, and there is no --kernel"},
		{o.given("kernel") && o.kernel == "" || o.given("initrd") && o.initrd == "", "--kernel and --initrd take a file; leave them out for none"},
		{o.given("vm-type") && snp, "--vm-type is not for mode sev-snp, which has one VM type"},
		{o.given("guest-features") && sev, "--guest-features is not for mode sev"},
		{o.vmm != measure.QEMU && (!snp || o.hasKernel()), "another --vmm than qemu is for mode sev-snp without a kernel: only qemu measures one"},
		{len(o.cmdline) > policy.MaxLength, fmt.Sprintf("a command line has at most %d bytes", policy.MaxLength)},
	} {
		if wrong.is {
			return in, fault.Usagef("%s", wrong.text)
		}
	}
	for _, same := range [][2]string{{"cmdline", "cmdline-file"}, {"cmdline", "cmdline-hash"}, {"cmdline-file", "cmdline-hash"},
		{"kernel", "kernel-hash"}, {"initrd", "initrd-hash"}, {"vcpu-type", "vcpu-sig"}} {
		if o.given(same[0]) && o.given(same[1]) {
			return in, fault.Usagef("--%s and --%s are two of the same", same[0], same[1])
		}
	}
	var lacks []string
	if !sev && !o.given("vcpus") {
		lacks = append(lacks, "--vcpus")
	}
	if !sev && !o.given("vcpu-type") && !o.given("vcpu-sig") {
		lacks = append(lacks, "--vcpu-type")
	}
	if err := missingOptions(lacks...); err != nil {
		return in, err
	}
	if snp && !o.given("guest-features") {
		o.features = measure.SNPActive
	}
	if in.VMType = o.vmType; !o.given("vm-type") && o.features != 0 {
		in.VMType = measure.Init2
	}
	if o.given("vcpus") {
		if in.CPUs, err = measure.NewCPUs(o.vcpus, o.signature, o.features); err != nil {
			return in, fault.Usagef("%w", err)
		}
		in.CPUs = in.CPUs.Under(o.vmm)
	}
	return in, nil
}

// read reads what the options name.
func (o *measureOptions) read(in *measure.Input) error {
	var err, tableErr error
	var hashing sync.WaitGroup // kernel and initrd are most of the work
	hashing.Go(func() { in.Table, tableErr = o.table() })
	in.Firmware, err = o.readFirmware()
	hashing.Wait()
	return cmp.Or(err, tableErr)
}

func (o *measureOptions) readFirmware() (f measure.Firmware, err error) {
	image, err := files.Read(o.firmware, files.MaxImage)
	if err != nil {
		return f, err
	}
	if f, err = measure.NewFirmware(image); err != nil {
		return f, fault.Hintf(fmt.Errorf("cannot measure %s: %w", o.firmware, err), "--firmware takes the OVMF file that the guest starts with")
	}
	return f, nil
}

// table makes the table of hashes; nil without a kernel.
func (o *measureOptions) table() (*measure.HashesTable, error) {
	if !o.hasKernel() {
		return nil, nil
	}
	line := o.cmdline
	if o.given("cmdline-file") {
		var err error
		if line, err = cmdline.ReadFile(o.cmdlineFile); err != nil {
			return nil, err
		}
	}
	if o.kernel != "" && o.initrd != "" {
		if err := inspect.CheckBoot(o.kernel, o.initrd); err != nil {
			return nil, err
		}
	}
	t, err := measure.HashFiles(o.kernel, o.initrd, line)
	if err != nil {
		return nil, err
	}
	for i, given := range blobs(&o.hashes) {
		if o.given(given.name + "-hash") {
			*blobs(t)[i].hash = *given.hash
		}
	}
	return t, nil
}

// parse32 reads 32 bytes in hexadecimal digits.
func parse32(s string) (all [32]byte, err error) {
	b, err := digits(len(all))(s)
	copy(all[:], b)
	return all, err
}

// launches are the options about what is measured of a sealed image.
type launches struct {
	all                      []string
	firmware, kernel, initrd string
}

func (l *launches) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&l.all, "measure", nil, "write the launch digest into the manifest: `MODE:VCPUS:TYPE`, such as sev-snp:4:EPYC-Milan, or sev; may be repeated")
	flags.StringVar(&l.firmware, "firmware", "", "with --measure: the firmware that launches it")
	flags.StringVar(&l.kernel, "kernel", "", "with --measure: the kernel")
	flags.StringVar(&l.initrd, "initrd", "", "with --measure: the archive that cocoroot initrd wrote")
}

// check refuses what cannot be measured, before the long work of sealing.
func (l *launches) check() error {
	files := map[string]string{"--firmware": l.firmware, "--kernel": l.kernel, "--initrd": l.initrd}
	var lacks []string
	for _, name := range []string{"--firmware", "--kernel", "--initrd"} {
		switch {
		case len(l.all) == 0 && files[name] != "":
			return fault.Usagef("%s is for --measure", name)
		case len(l.all) > 0 && files[name] == "":
			lacks = append(lacks, name)
		}
	}
	if err := missingOptions(lacks...); err != nil {
		return err
	}
	_, err := l.digests("")
	return err
}

// digests measures each launch with a command line, as measure does.
func (l *launches) digests(line string) ([]manifest.Digest, error) {
	var all []manifest.Digest
	for _, text := range l.all {
		mode, cpus, _ := strings.Cut(text, ":")
		count, kind, _ := strings.Cut(cpus, ":")
		options := []string{"mode", mode, "firmware", l.firmware, "kernel", l.kernel, "initrd", l.initrd, "cmdline", line}
		if cpus != "" {
			options = append(options, "vcpus", count, "vcpu-type", kind)
		}
		var digest strings.Builder
		err := also(context.Background(), (&app{stdout: &digest, stderr: io.Discard}).measure(), nil, options...)
		if fault.Code(err) == fault.Usage {
			err = fault.Usagef("--measure: %.80q is not MODE:VCPUS:TYPE: %w", text, err)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot measure %s: %w", text, err)
		}
		n, _ := strconv.Atoi(count)
		all = append(all, manifest.Digest{Mode: mode, VCPUs: n, VCPUType: kind, Digest: strings.TrimSpace(digest.String())})
	}
	return all, nil
}
