package launch

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"cocoroot/initramfs/measure/ovmf"
)

// Version is a QEMU release.
type Version struct{ Major, Minor int }

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
	return ParseVersion(string(out))
}

// ParseVersion reads a release's number, such as 10.0 or 7.2.22, with or
// without what QEMU prints around it.
func ParseVersion(s string) (Version, error) {
	number := strings.TrimPrefix(s, "QEMU emulator version ")
	major, rest, _ := strings.Cut(number, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, errA := strconv.ParseUint(major, 10, 16)
	b, errB := strconv.ParseUint(minor, 10, 16)
	if errA != nil || errB != nil {
		return Version{}, fmt.Errorf("%.80q is not the version of a QEMU", s)
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
	line                     string // number of a connected socket for the port to cmds/run
	control                  string // number of a connected socket for QMP; with it the guest waits for cont
}

// arguments builds QEMU's command line. It is the same for the same input.
func arguments(c Config, v Version, fw ovmf.Firmware, n names) []string {
	machine := "q35"
	if c.SEV != nil {
		// A confidential guest has no SMM, and VMware's port needs registers
		// that the host cannot read.
		machine += ",smm=off,vmport=off,confidential-guest-support=sev0,memory-backend=ram0"
	}
	args := []string{
		"-no-user-config", "-nodefaults", "-nographic", "-no-reboot",
		"-machine", machine, "-accel", c.accel(), "-cpu", c.cpu(v),
		"-m", strconv.Itoa(c.Memory), "-smp", strconv.Itoa(c.CPUs),
		"-bios", n.firmware, "-kernel", n.kernel,
	}
	add := func(words ...string) { args = append(args, words...) }
	if n.initrd != "" {
		add("-initrd", n.initrd)
	}
	add("-append", c.Cmdline)
	switch {
	case c.SEV != nil:
		// The memory is a file that KVM can share: under SEV-SNP only what
		// the guest shares is in it, QEMU makes the private memory
		// (guest_memfd) beside it.
		add("-object", fmt.Sprintf("memory-backend-memfd,id=ram0,size=%dM,share=on", c.Memory), "-object", c.SEV.object(v))
	case !v.AtLeast(10, 0):
		// Before QEMU 10 the guest gets the kernel with a setup header that
		// QEMU has filled in, and its hash does not match. The firmware
		// prefers this file, which QEMU 10 provides itself.
		add("-fw_cfg", "name=etc/boot/kernel,file="+escape(n.kernel))
	}
	if n.hashes != "" {
		add("-device", loader(n.hashes, fw.Hashes))
	}
	if n.secret != "" {
		add("-device", loader(n.secret, fw.Secret))
	}
	for i, d := range c.Disks {
		add(c.disk(i, d)...)
	}
	add(c.network()...)
	add(n.serial()...)
	add(n.lineArgs()...)
	add(c.channel()...)
	if n.control != "" || c.waits() {
		add("-S")
	}
	if n.control != "" {
		add("-chardev", "socket,id=control,fd="+n.control, "-mon", "chardev=control,mode=control")
	}
	if c.QMPSocket != "" {
		add("-chardev", "socket,id=qmp,server=on,wait=off,path="+escape(c.QMPSocket), "-mon", "chardev=qmp,mode=control")
	}
	if c.OnShutdown != nil {
		add("-no-shutdown")
	}
	return append(args, c.ExtraArgs...)
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
// Its rep movsb and rep stosb go byte by byte, and Linux, told that they are fast
// (erms, fsrm), clears all memory with them: a fifth of a boot's time.
func (c Config) cpu(v Version) string {
	switch {
	case c.SEV != nil:
		return c.SEV.CPUType
	case c.Accel == "kvm":
		return "host"
	case v.AtLeast(8, 1):
		return "EPYC-Genoa,monitor=off,erms=off,fsrm=off"
	default:
		return "EPYC-Milan,monitor=off,erms=off,fsrm=off"
	}
}

func loader(file string, to ovmf.Area) string {
	return fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", escape(file), to.Base)
}

// virtio returns a device. To a confidential guest's memory it has no other way
// than the DMA interface.
func (c Config) virtio(device string) string {
	if c.SEV != nil {
		device += ",disable-legacy=on,iommu_platform=on"
	}
	return device
}

// disk returns the options for the disk of this number.
func (c Config) disk(i int, d Disk) []string {
	drive := fmt.Sprintf("if=none,id=disk%d,format=raw,file=%s", i, escape(d.Path))
	if !d.Writable {
		drive += ",readonly=on"
	}
	device := c.virtio(fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	if d.Serial != "" {
		device += ",serial=" + escape(d.Serial)
	}
	return []string{"-drive", drive, "-device", device}
}

// network returns the options for a card in QEMU's own network, which needs no
// privilege; none without ports that lead to it. Nothing boots from it.
func (c Config) network() []string {
	if len(c.Forwards) == 0 {
		return nil
	}
	net := "user,id=net"
	for _, f := range c.Forwards {
		kind := "tcp"
		if f.UDP {
			kind = "udp"
		}
		net += fmt.Sprintf(",hostfwd=%s:127.0.0.1:%d-:%d", kind, f.Host, f.Guest)
	}
	return []string{"-netdev", net, "-device", c.virtio("virtio-net-pci,netdev=net,romfile=")}
}

// serial returns the options for the console.
func (n names) serial() []string {
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
