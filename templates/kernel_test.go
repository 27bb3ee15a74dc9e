package templates_test

import (
	"os"
	"strings"
	"testing"

	"cocoroot/initramfs/oracle"
)

// The kernel is as SECURITY.md and templates/kernel/README.md say, whatever else a
// symbol of the fragment has switched on.
func TestKernelConfig(t *testing.T) {
	text, err := os.ReadFile(oracle.Artifact(t, "kernel.config"))
	if err != nil {
		t.Fatal(err)
	}
	value := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, is, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			value[strings.TrimPrefix(name, "CONFIG_")] = is
		}
	}
	if len(value) < 500 {
		t.Fatalf("the kernel has %d options", len(value))
	}
	for what, symbols := range map[string]string{
		"no way in":                 "MAGIC_SYSRQ KEXEC KEXEC_FILE DEVMEM DEVPORT DEBUG_FS KPROBES X86_MSR X86_IOPL_IOPERM PROC_KCORE HIBERNATION ACPI_TABLE_UPGRADE",
		"nothing of the host's":     "FW_CFG_SYSFS DMI_SYSFS EFIVAR_FS 9P_FS NET_9P VIRTIO_FS FUSE_FS VSOCKETS VIRTIO_BALLOON USB_SUPPORT INPUT SERIO WATCHDOG VT HW_RANDOM HOTPLUG_PCI VIRTIO_PCI_LEGACY",
		"no copy of memory":         "SWAP COREDUMP CRASH_DUMP",
		"no read into plaintext":    "EROFS_FS_ZIP TRANSPARENT_HUGEPAGE",
		"less to attack":            "IA32_EMULATION MODIFY_LDT_SYSCALL USERFAULTFD BLK_DEV_BSG",
		"no lockdown, as is said":   "SECURITY_LOCKDOWN_LSM",
		"no program that it starts": "UEVENT_HELPER",
	} {
		for name := range strings.FieldsSeq(symbols) {
			if value[name] != "" {
				t.Errorf("%s: %s is %s", what, name, value[name])
			}
		}
	}
	for name, want := range map[string]string{
		"STATIC_USERMODEHELPER": "y", "STATIC_USERMODEHELPER_PATH": `""`, "INIT_ON_FREE_DEFAULT_ON": "y",
		"RANDOM_KMALLOC_CACHES": "y", "UBSAN_BOUNDS": "y", "UBSAN_TRAP": "y", "ZERO_CALL_USED_REGS": "y",
		"EFI_SECRET": "m", "VIRTIO_BLK": "m", "SCSI_VIRTIO": "m", "BLK_DEV_NVME": "m", "VIRTIO_CONSOLE": "m",
	} {
		if value[name] != want {
			t.Errorf("%s is %q; want %q", name, value[name], want)
		}
	}
}
