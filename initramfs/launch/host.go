package launch

import (
	"cocoroot/initramfs/fault"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNoSEV is returned for a host that cannot launch a guest of the mode.
var ErrNoSEV = fault.Hintf(errors.New("this host cannot launch such a guest"),
	"turn SEV on in the machine's setup (SMEE, SEV-ES, SNP) and for KVM (modprobe kvm_amd sev=1 sev_es=1 sev_snp=1); dmesg | grep -i sev says why not; --dry-run needs none of it")

// CheckHost looks for what a launch of the mode needs, below the host's root:
// parameters of kvm_amd, which are N where the processor cannot do it, and
// devices. What it finds missing is in the error, ErrNoSEV. It protects nobody from
// a host that lies.
func CheckHost(root fs.FS, m Mode) error {
	needs := []string{"sev"}
	switch m {
	case ModeES:
		needs = append(needs, "sev_es")
	case ModeSNP:
		needs = append(needs, "sev_es", "sev_snp")
	}
	var missing []string
	for _, n := range needs {
		name := "sys/module/kvm_amd/parameters/" + n
		if b, err := fs.ReadFile(root, name); err != nil {
			missing = append(missing, "no /"+name)
		} else if text := strings.TrimSpace(string(b)); text != "Y" && text != "1" {
			missing = append(missing, fmt.Sprintf("/%s is %.8q", name, text))
		}
	}
	for _, device := range []string{"dev/kvm", "dev/sev"} {
		if _, err := fs.Stat(root, device); err != nil {
			missing = append(missing, "no /"+device)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w (%s): %s", ErrNoSEV, m, strings.Join(missing, "; "))
	}
	return nil
}

// CBit returns the page table bit that marks encrypted memory on this processor
// (CPUID function 0x8000001f, EBX bits 5:0; AMD APM volume 3, E.4.17), which QEMU
// asks for too: 0 where there is none.
func CBit() int {
	if most, _, _, _ := cpuid(0x80000000); most < 0x8000001f {
		return 0
	}
	_, ebx, _, _ := cpuid(0x8000001f)
	return int(ebx & 0x3f)
}

// CheckSocket refuses a place for a socket of QEMU's that others than this user
// can get at: who can open the QMP socket holds the guest.
func CheckSocket(socket string) error {
	dir := filepath.Dir(socket)
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s as a socket: %w", socket, err)
	}
	if owner := fi.Sys().(*syscall.Stat_t).Uid; !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 || int(owner) != os.Geteuid() {
		return fmt.Errorf("%w: others than this user can get at %s, and so at the socket", ErrConfig, dir)
	}
	return nil
}
