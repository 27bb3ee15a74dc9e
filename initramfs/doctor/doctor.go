// Package doctor looks at a machine and says which parts of cocoroot work there,
// and what to do about those that do not. It changes nothing.
//
// It believes what the machine says of itself: that a host looks as if it had
// SEV-SNP proves nothing to a guest's owner, whom only a report can convince.
package doctor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/launch"
	"cocoroot/initramfs/measure/ovmf"
)

// Machine is what is looked at. Tests have their own.
type Machine struct {
	Root   fs.FS                                                 // the host's root folder
	Beside string                                                // folder of the built files: firmware, kernel, initrd, run
	Find   func(program string) (string, error)                  // as exec.LookPath
	QEMU   func(context.Context, string) (launch.Version, error) // as launch.QEMUVersion
	Open   func(device string) error                             // whether this user may
	Locked uint64                                                // bytes of memory that this user may lock
	Own    ovmf.Own                                              // the firmware that was built with this program
}

// Here returns this machine.
func Here(own ovmf.Own) (Machine, error) {
	self, err := os.Executable()
	if err != nil {
		return Machine{}, fmt.Errorf("cannot find this program: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return Machine{}, fmt.Errorf("cannot get the limit of locked memory: %w", err)
	}
	return Machine{os.DirFS("/"), filepath.Dir(self), findTool, launch.QEMUVersion, mayOpen, limit.Cur, own}, nil
}

// findTool looks in an administrator's folders too.
func findTool(program string) (string, error) {
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, program))
		}
	}
	return path, err
}

func mayOpen(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	return err
}

// Use is what a check is needed for.
type Use string

// The uses.
const (
	Simulate Use = "simulated launch" // what run and launch --simulate need
	Seal     Use = "seal"
	Hardware Use = "SEV host"
	Inform   Use = "" // good to know
)

// Finding is the answer of one check.
type Finding struct {
	Name string `json:"name"`
	For  Use    `json:"for,omitempty"`
	OK   bool   `json:"ok"`
	Says string `json:"says"`
	Do   string `json:"do,omitempty"` // what to do about it, where something can be done
}

// Report is what was found.
type Report struct {
	// Simulates says whether a simulated launch would work.
	Simulates bool      `json:"simulates"`
	Findings  []Finding `json:"findings"`
}

// answer returns a finding with what it says where it is good, or else where it is
// bad, and what to do about that.
func answer(name string, use Use, ok bool, good, bad, do string) Finding {
	if ok {
		return Finding{Name: name, For: use, OK: true, Says: good}
	}
	return Finding{Name: name, For: use, Says: bad, Do: do}
}

// Check looks at all of it.
func (m Machine) Check(ctx context.Context) Report {
	r := Report{Simulates: true, Findings: m.qemu(ctx)}
	add := func(f ...Finding) { r.Findings = append(r.Findings, f...) }
	add(m.firmware(), m.beside("bzImage", Simulate, "kernel"), m.beside("initrd.img", Simulate, "initrd"), m.beside("run", Seal, "tools"))
	for _, t := range []struct{ program, makes, in string }{
		{"mksquashfs", "images of folders", "squashfs-tools"}, {"tar2sqfs", "images of tars and containers", "squashfs-tools-ng"},
		{"mkfs.erofs", "--fs erofs", "erofs-utils"}, {"mke2fs", "--fs ext4", "e2fsprogs"}, {"qemu-img", "images of qcow2 disks", "qemu-utils"},
		{"modprobe", "the list of modules for initrd --modules", "kmod"},
	} {
		_, err := m.Find(t.program)
		add(answer(t.program, Seal, err == nil, "makes "+t.makes, "not installed: it makes "+t.makes, "apt install "+t.in))
	}
	add(m.device("/dev/kvm", "simulated launches run under emulation, SEV launches not at all", "turn virtualization on in the machine's setup, and modprobe kvm_amd"),
		m.sev(launch.ModeSEV), m.sev(launch.ModeES), m.sev(launch.ModeSNP),
		m.device("/dev/sev", "the kernel talks to no security processor", "modprobe ccp, on a processor that has one"),
		m.locked(), m.guest(), m.namespaces())
	for _, f := range r.Findings {
		if f.For == Simulate && !f.OK {
			r.Simulates = false
		}
	}
	return r
}

// Print prints the findings for people, those that something can be done about
// with what.
func (r Report) Print(w io.Writer) {
	for _, f := range r.Findings {
		mark := "ok"
		switch {
		case !f.OK && f.For == Inform:
			mark = "-"
		case !f.OK:
			mark = "no"
		}
		fmt.Fprintf(w, "%-3s %-15s %s\n", mark, f.Name, f.Says)
		if f.Do != "" {
			fmt.Fprintf(w, "%19s %s\n", "", "to do: "+f.Do)
		}
	}
}

func (m Machine) qemu(ctx context.Context) []Finding {
	const program = "qemu-system-x86_64"
	path, err := m.Find(program)
	var v launch.Version
	if err == nil {
		v, err = m.QEMU(ctx, path)
	}
	says := fmt.Sprintf("%d.%d, %s", v.Major, v.Minor, path)
	if err != nil {
		v, says = launch.Version{}, fmt.Sprintf("there is no %s that runs", program)
	}
	return []Finding{
		answer("QEMU", Simulate, v.AtLeast(7, 2), says, says, "apt install qemu-system-x86, 7.2 or later"),
		answer("QEMU for SNP", Hardware, v.AtLeast(9, 1), "it knows sev-snp-guest", "sev-snp and the VM type init2 need 9.1", "on Debian 12, qemu-system-x86 of bookworm-backports is new enough"),
	}
}

// firmware says whose the firmware beside this program is.
func (m Machine) firmware() Finding {
	f := Finding{Name: "firmware", For: Simulate, Do: "./build.sh firmware"}
	image, err := files.Read(filepath.Join(m.Beside, "OVMF.amdsev.fd"), files.MaxImage)
	if err != nil {
		f.Says = "there is no OVMF.amdsev.fd beside this program"
		return f
	}
	fw, err := ovmf.Parse(image)
	if err != nil || !fw.Hashes.Present() || !fw.Secret.Present() {
		f.Says = "OVMF.amdsev.fd beside this program has no room for hashes and secrets"
		return f
	}
	f.OK = true
	if m.Own.Check(sha256.Sum256(image)) != nil {
		f.Says = "not cocoroot's own: it may let the host in before the measured kernel runs"
		return f
	}
	f.Says, f.Do = "cocoroot's own, "+m.Own.Version(), ""
	return f
}

func (m Machine) beside(name string, use Use, made string) Finding {
	_, err := os.Stat(filepath.Join(m.Beside, name))
	return answer(name, use, err == nil, "beside this program", "not beside this program", "./build.sh "+made)
}

// device says whether this user may use a device.
func (m Machine) device(name, absent, do string) Finding {
	err := m.Open(name)
	says := "not there: " + absent
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		says = fmt.Sprintf("this user may not use it (%v)", errors.Unwrap(err))
		do = "add the user to the device's group, or give it one by a udev rule: GROUP=\"kvm\", MODE=\"0660\""
	}
	return answer(name, Hardware, err == nil, "this user may use it", says, do)
}

// sev says whether this host can launch guests of a mode.
func (m Machine) sev(mode launch.Mode) Finding {
	var lacks string
	err := launch.CheckHost(m.Root, mode)
	if err != nil {
		_, lacks, _ = strings.Cut(err.Error(), ": ")
	}
	return answer(string(mode), Hardware, err == nil, "processor, kernel and devices have it", lacks,
		"on an AMD EPYC processor, turn it on in the machine's setup (SMEE, SEV-ES, SNP) and for KVM: modprobe kvm_amd sev=1 sev_es=1 sev_snp=1")
}

// enough is what a guest of the usual size locks under SEV and SEV-ES, bytes.
const enough = 1 << 30

// locked says whether SEV may lock a guest's memory, which it does with all of it.
func (m Machine) locked() Finding {
	says := fmt.Sprintf("%d MiB; under SEV all of a guest's memory is locked", m.Locked>>20)
	if m.Locked == unix.RLIM_INFINITY {
		says = "no limit"
	}
	return answer("locked memory", Hardware, m.Locked >= enough, says, says, "ulimit -l unlimited, or LimitMEMLOCK=infinity in QEMU's unit")
}

// guest says whether this machine is an SEV-SNP guest itself.
func (m Machine) guest() Finding {
	_, err := fs.Stat(m.Root, "dev/sev-guest")
	return answer("/dev/sev-guest", Inform, err == nil, "this machine is an SEV-SNP guest; guests inside it cannot be",
		"not there: this machine is not an SEV-SNP guest, or does not say so", "")
}

// namespaces says whether an ordinary user may make the recipes' images.
func (m Machine) namespaces() Finding {
	const rest = "; cocoroot needs none, recipes of images do"
	off := ""
	for _, name := range []string{"user/max_user_namespaces", "kernel/unprivileged_userns_clone"} {
		b, err := fs.ReadFile(m.Root, "proc/sys/"+name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the second one is Debian's
		}
		if n, parseErr := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || parseErr != nil || n == 0 {
			off = cmp.Or(off, strings.ReplaceAll(name, "/", "."))
		}
	}
	return answer("user namespaces", Inform, off == "", "an ordinary user has them"+rest, "an ordinary user has none"+rest, "sysctl -w "+off+"=1")
}
