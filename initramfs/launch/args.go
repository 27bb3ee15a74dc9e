package launch

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"cocoroot/initramfs/measure/ovmf"
)

// Version is a QEMU release.
type Version struct{ Major, Minor int }

// ErrVersion is returned for a program that does not say which QEMU it is.
var ErrVersion = errors.New("not a QEMU that states its version")

// AtLeast reports whether v is release major.minor or a later one.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// QEMUVersion asks the program which QEMU it is.
func QEMUVersion(ctx context.Context, program string) (Version, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return Version{}, fmt.Errorf("cannot run %s --version: %w", program, err)
	}
	return parseVersion(string(out))
}

// parseVersion reads "QEMU emulator version 7.2.22 (Debian …)".
func parseVersion(s string) (Version, error) {
	const prefix = "QEMU emulator version "
	line, _, _ := strings.Cut(s, "\n")
	numbers, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return Version{}, fmt.Errorf("%w: it says %.80q", ErrVersion, line)
	}
	return ParseVersion(numbers)
}

// ParseVersion reads a release's number, such as 10.0 or 7.2.22.
func ParseVersion(s string) (Version, error) {
	major, rest, _ := strings.Cut(s, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, errA := strconv.ParseUint(major, 10, 16)
	b, errB := strconv.ParseUint(minor, 10, 16)
	if errA != nil || errB != nil {
		return Version{}, fmt.Errorf("%w: it says %.80q", ErrVersion, s)
	}
	return Version{int(a), int(b)}, nil
}

// names is what QEMU is told to open. An empty name stands for nothing to
// open, an empty console for standard output.
type names struct {
	firmware, kernel, initrd string
	hashes, secret           string
	console                  string // file or pipe to write to
	typed                    string // number of a connected socket that is the console instead
	control                  string // number of a connected socket for QMP; with it the guest waits for cont
}

// arguments builds QEMU's command line. It is the same for the same input.
func arguments(c Config, v Version, fw ovmf.Firmware, n names) []string {
	args := []string{
		"-no-user-config", "-nodefaults", "-nographic", "-no-reboot",
		"-machine", c.machine(), "-accel", c.accel(), "-cpu", c.cpu(v),
		"-m", strconv.Itoa(c.Memory), "-smp", strconv.Itoa(c.CPUs),
		"-bios", n.firmware, "-kernel", n.kernel,
	}
	if n.initrd != "" {
		args = append(args, "-initrd", n.initrd)
	}
	args = append(args, "-append", c.Cmdline)
	if c.SEV != nil {
		args = append(args, "-object", c.memoryObject(), "-object", c.SEV.object(v))
	}
	if c.SEV == nil && !v.AtLeast(10, 0) {
		// Before QEMU 10 the guest gets the kernel with a setup header that
		// QEMU has filled in, and its hash does not match. The firmware
		// prefers this file, which QEMU 10 provides itself.
		args = append(args, "-fw_cfg", "name=etc/boot/kernel,file="+escape(n.kernel))
	}
	if n.hashes != "" {
		args = append(args, "-device", loader(n.hashes, fw.Hashes))
	}
	if n.secret != "" {
		args = append(args, "-device", loader(n.secret, fw.Secret))
	}
	for i, d := range c.Disks {
		args = append(args, d.arguments(i, c.SEV != nil)...)
	}
	args = append(args, networkArguments(c.Forwards, c.SEV != nil)...)
	args = append(args, consoleArguments(n)...)
	if n.control != "" || c.SEV != nil && c.SEV.TakesSecret() {
		args = append(args, "-S")
	}
	if n.control != "" {
		args = append(args, "-chardev", "socket,id=control,fd="+n.control, "-mon", "chardev=control,mode=control")
	}
	if c.QMPSocket != "" {
		args = append(args, "-chardev", "socket,id=qmp,server=on,wait=off,path="+escape(c.QMPSocket), "-mon", "chardev=qmp,mode=control")
	}
	if c.OnShutdown != nil {
		args = append(args, "-no-shutdown")
	}
	return append(args, c.ExtraArgs...)
}

// machine returns the value of -machine. A confidential guest has no SMM, and
// VMware's port needs registers that the host cannot read.
func (c Config) machine() string {
	if c.SEV == nil {
		return "q35"
	}
	return "q35,smm=off,vmport=off,confidential-guest-support=sev0,memory-backend=ram0"
}

// memoryObject returns the guest's memory as a file that KVM can share: under
// SEV-SNP only what the guest shares is in it, QEMU makes the private memory
// (guest_memfd) beside it.
func (c Config) memoryObject() string {
	return fmt.Sprintf("memory-backend-memfd,id=ram0,size=%dM,share=on", c.Memory)
}

// accel returns the value of -accel. With a thread for each CPU, TCG at times
// runs an int3 that Linux has put into its code for a moment after it is gone
// again, and the guest panics ("Oops: int3"); seen with 16 CPUs on QEMU 7.2.
func (c Config) accel() string {
	if c.Accel == "tcg" && c.CPUs > 1 {
		return "tcg,thread=single"
	}
	return c.Accel
}

// cpu returns the newest EPYC that the release knows. TCG lacks some of its
// features and says so on stderr. What it has of MWAIT is a busy loop: CPUs
// that wait to be started would take this machine's time from the one that runs.
func (c Config) cpu(v Version) string {
	switch {
	case c.SEV != nil:
		return c.SEV.CPUType
	case c.Accel == "kvm":
		return "host"
	case v.AtLeast(8, 1):
		return "EPYC-Genoa,monitor=off"
	default:
		return "EPYC-Milan,monitor=off"
	}
}

func loader(file string, to ovmf.Area) string {
	return fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", escape(file), to.Base)
}

// arguments returns the options for the disk of this number. To a confidential
// guest's memory a device has no other way than the DMA interface.
func (d Disk) arguments(i int, confidential bool) []string {
	drive := fmt.Sprintf("if=none,id=disk%d,format=raw,file=%s", i, escape(d.Path))
	if !d.Writable {
		drive += ",readonly=on"
	}
	device := fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)
	if confidential {
		device += ",disable-legacy=on,iommu_platform=on"
	}
	if d.Serial != "" {
		device += ",serial=" + escape(d.Serial)
	}
	return []string{"-drive", drive, "-device", device}
}

// networkArguments returns the options for a card in QEMU's own network, which
// needs no privilege; none without ports that lead to it. Nothing boots from it.
func networkArguments(forwards []Forward, confidential bool) []string {
	if len(forwards) == 0 {
		return nil
	}
	net := "user,id=net"
	for _, f := range forwards {
		net += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.Host, f.Guest)
	}
	device := "virtio-net-pci,netdev=net,romfile="
	if confidential {
		device += ",disable-legacy=on,iommu_platform=on"
	}
	return []string{"-netdev", net, "-device", device}
}

func consoleArguments(n names) []string {
	switch {
	case n.typed != "":
		return []string{"-chardev", "socket,id=console,fd=" + n.typed, "-serial", "chardev:console"}
	case n.console != "":
		return []string{"-chardev", "file,id=console,path=" + escape(n.console), "-serial", "chardev:console"}
	}
	return []string{"-serial", "stdio"}
}

// escape doubles commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
