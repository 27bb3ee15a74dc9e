package main

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/image/cmdline"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/policy"
)

// measureOptions are the options of the verb as they were given.
type measureOptions struct {
	mode, firmware       string
	kernel, initrd       string
	cmdline, cmdlineFile string
	vcpus                int
	vcpuType, vcpuSig    string
	vmType, features     string
	svsm, vmm            string
	varsSize             uint64
	given                func(name string) bool
	asJSON               bool
}

func (a *app) measure() *cobra.Command {
	c := verb("measure --mode MODE --firmware F [--kernel F [--initrd F] [--cmdline-file F]] [--vcpus N --vcpu-type NAME]",
		"compute the launch digest to expect",
		"  cocoroot measure --mode sev-snp --firmware OVMF.amdsev.fd --kernel bzImage --initrd initrd.img \\\n    --cmdline-file image.cmdline --vcpus 4 --vcpu-type EPYC-Milan", noArgs)
	flags := c.Flags()
	o := measureOptions{given: flags.Changed}
	flags.StringVar(&o.mode, "mode", "", "sev, sev-es or sev-snp")
	flags.StringVar(&o.firmware, "firmware", "", "OVMF image, as the host passes it to QEMU")
	flags.StringVar(&o.kernel, "kernel", "", "kernel (default: none, so no kernel hashes)")
	flags.StringVar(&o.initrd, "initrd", "", "archive that cocoroot initrd wrote (default: none)")
	flags.StringVar(&o.cmdline, "cmdline", "", "kernel command line")
	flags.StringVar(&o.cmdlineFile, "cmdline-file", "", "command line that cocoroot seal wrote")
	flags.IntVar(&o.vcpus, "vcpus", 0, "virtual CPUs of the guest; sev measures none")
	flags.StringVar(&o.vcpuType, "vcpu-type", "", "QEMU's -cpu, such as EPYC-Milan; sev measures none")
	flags.StringVar(&o.vcpuSig, "vcpu-sig", "", "instead of the type: CPUID signature, such as 0xa00f11 or 25/1/1 (family/model/stepping)")
	flags.StringVar(&o.vmType, "vm-type", "", "sev-es: legacy or init2 (default: legacy as QEMU's, init2 with guest features)")
	flags.StringVar(&o.features, "guest-features", "", "SEV features of the guest (default: 0x1 for sev-snp, 0 for sev-es)")
	flags.StringVar(&o.vmm, "vmm", "qemu", "sev-snp without a kernel: who starts the virtual CPUs: qemu, ec2 or gce")
	flags.StringVar(&o.svsm, "svsm", "", "sev-snp: raw image of a Coconut SVSM that starts before the firmware")
	flags.Uint64Var(&o.varsSize, "vars-size", 0, "with --svsm: size of OVMF_VARS.fd in bytes")
	flags.BoolVar(&o.asJSON, "json", false, "print every intermediate value too")
	need(c, "mode", "firmware")
	choices(c, "mode", "sev", "sev-es", "sev-snp")
	choices(c, "vm-type", "legacy", "init2")
	choices(c, "vmm", "qemu", "ec2", "gce")
	c.RunE = func(*cobra.Command, []string) error { return a.printMeasurement(o) }
	return c
}

func (a *app) printMeasurement(o measureOptions) error {
	in, err := o.check()
	if err != nil {
		return err
	}
	if err := o.read(&in); err != nil {
		return err
	}
	a.warnForeign(in.Firmware.SHA256())
	result, err := in.Digest(o.mode)
	switch {
	case errors.Is(err, measure.ErrCPUs):
		return fault.Usagef("%w", err)
	case errors.Is(err, ovmf.ErrNoArea), errors.Is(err, ovmf.ErrTooLong):
		return fault.Hintf(err, "a kernel is measured with OVMF's AmdSev build; ./build.sh firmware gets it")
	case err != nil:
		return err
	}
	if !o.asJSON {
		_, err = fmt.Fprintf(a.stdout, "%x\n", result.Digest)
		return err
	}
	return printJSON(a.stdout, measure.NewMeasurement(o.mode, in, result))
}

// check checks that the options fit together and reads those that name no file.
func (o *measureOptions) check() (in measure.Input, err error) {
	switch {
	case o.mode != "sev" && o.mode != "sev-es" && o.mode != "sev-snp":
		return in, fault.Usagef("there is no mode %q; it is sev, sev-es or sev-snp", o.mode)
	case !o.given("kernel") && (o.given("initrd") || o.given("cmdline") || o.given("cmdline-file")):
		return in, fault.Usagef("an initrd or a command line is measured only with a kernel, and there is no --kernel")
	case o.given("kernel") && o.kernel == "", o.given("initrd") && o.initrd == "":
		return in, fault.Usagef("--kernel and --initrd take a file; leave them out for none")
	case o.given("cmdline") && o.given("cmdline-file"):
		return in, fault.Usagef("there are two command lines, --cmdline and --cmdline-file")
	case o.given("vcpu-type") && o.given("vcpu-sig"):
		return in, fault.Usagef("there are two kinds of vCPU, --vcpu-type and --vcpu-sig")
	case o.given("vm-type") && o.mode == "sev-snp":
		return in, fault.Usagef("--vm-type is not for mode sev-snp, which has one VM type")
	case o.given("guest-features") && o.mode == "sev":
		return in, fault.Usagef("--guest-features is not for mode sev")
	case o.given("svsm") && (o.mode != "sev-snp" || o.kernel != ""):
		return in, fault.Usagef("--svsm is for mode sev-snp without a kernel: with an SVSM, QEMU measures no kernel hashes")
	case o.vmm != "qemu" && (o.mode != "sev-snp" || o.kernel != "" || o.given("svsm")):
		return in, fault.Usagef("--vmm %.32q is for mode sev-snp without kernel and SVSM: only qemu measures those", o.vmm)
	case o.given("svsm") != o.given("vars-size"):
		return in, fault.Usagef("--svsm and --vars-size belong together")
	case len(o.cmdline) > policy.MaxLength:
		return in, fault.Usagef("a command line has at most %d bytes", policy.MaxLength)
	}
	if err := o.checkCPUs(&in); err != nil {
		return in, err
	}
	return in, nil
}

// checkCPUs reads the options about virtual CPUs. Mode sev measures none:
// there they may be given, and are checked, so that a script can use the same
// options for each mode.
func (o *measureOptions) checkCPUs(in *measure.Input) error {
	var lacks []string
	if o.mode != "sev" && !o.given("vcpus") {
		lacks = append(lacks, "--vcpus")
	}
	if o.mode != "sev" && !o.given("vcpu-type") && !o.given("vcpu-sig") {
		lacks = append(lacks, "--vcpu-type")
	}
	if err := missingOptions(lacks...); err != nil {
		return err
	}
	signature := measure.Signature(1) // any
	var err error
	switch {
	case o.given("vcpu-type"):
		signature, err = measure.LookupCPUType(o.vcpuType)
	case o.given("vcpu-sig"):
		signature, err = measure.ParseSignature(o.vcpuSig)
	}
	if err != nil {
		return fault.Usagef("%w", err)
	}
	var features measure.Features
	if o.mode == "sev-snp" {
		features = measure.SNPActive
	}
	if o.given("guest-features") {
		if features, err = measure.ParseFeatures(o.features); err != nil {
			return fault.Usagef("%w", err)
		}
	}
	vmm, err := measure.ParseVMM(o.vmm)
	if err != nil {
		return fault.Usagef("%w", err)
	}
	if o.given("vcpus") {
		if in.CPUs, err = measure.NewCPUs(o.vcpus, signature, features); err != nil {
			return fault.Usagef("%w", err)
		}
		in.CPUs = in.CPUs.Under(vmm)
	}
	switch {
	case o.vmType == "init2", !o.given("vm-type") && features != 0:
		in.VMType = measure.Init2
	case o.given("vm-type") && o.vmType != "legacy":
		return fault.Usagef("there is no VM type %q; it is legacy or init2", o.vmType)
	}
	return nil
}

// read reads what the options name.
func (o *measureOptions) read(in *measure.Input) error {
	var err, tableErr error
	var hashing sync.WaitGroup // kernel and initrd are most of the work
	hashing.Go(func() { in.Table, tableErr = o.table() })
	err = o.readImages(in)
	hashing.Wait()
	return cmp.Or(err, tableErr)
}

// readImages reads the firmware and the SVSM.
func (o *measureOptions) readImages(in *measure.Input) error {
	image, err := files.Read(o.firmware, files.MaxImage)
	if err != nil {
		return err
	}
	if in.Firmware, err = measure.NewFirmware(image); err != nil {
		return fault.Hintf(fmt.Errorf("cannot measure %s: %w", o.firmware, err), "--firmware takes the OVMF file that the guest starts with")
	}
	if o.given("svsm") {
		if image, err = files.Read(o.svsm, files.MaxImage); err != nil {
			return err
		}
		s, err := measure.NewSVSM(image, in.Firmware, o.varsSize)
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", o.svsm, err)
		}
		in.SVSM = &s
	}
	return nil
}

// table makes the table of hashes; nil without a kernel.
func (o *measureOptions) table() (*measure.HashesTable, error) {
	if o.kernel == "" {
		return nil, nil
	}
	line := o.cmdline
	if o.given("cmdline-file") {
		var err error
		if line, err = cmdline.ReadFile(o.cmdlineFile); err != nil {
			return nil, err
		}
	}
	if o.initrd != "" {
		if err := inspect.CheckBoot(o.kernel, o.initrd); err != nil {
			return nil, err
		}
	}
	return measure.HashFiles(o.kernel, o.initrd, line)
}
