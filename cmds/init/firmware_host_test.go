package main_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/oracle"
)

// Code of the host's that a firmware may run before the measured kernel, with
// every hash right. Each way was found open on Debian's OVMF.amdsev.fd
// (package ovmf-amdsev 2026.08, SHA-256 3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f),
// and is shown open there before it is shown closed here.

// stock returns Debian's firmware.
func stock(t *testing.T) string {
	t.Helper()
	return oracle.Fixture(t, "stock/OVMF.amdsev.fd")
}

// spy gives the host's program the port that it writes to, and returns the
// file with what was written.
func (g *guest) spy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "spy")
	g.extra = append(g.extra, "-chardev", "file,id=spy,path="+path,
		"-device", fmt.Sprintf("isa-debugcon,iobase=%#x,chardev=spy", spyPort))
	return path
}

// file writes what the host offers, and returns its path.
func file(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, data)
	return path
}

// hostCode is each way in: QEMU's arguments that open it.
var hostCode = map[string]func(t *testing.T, g *guest){
	// Upstream since edk2 202502 starts this file before the kernel, and
	// takes any name but kernel, initrd and cmdline for verified:
	// -fw_cfg name=etc/boot/shim,file=PROGRAM
	"shim": func(t *testing.T, g *guest) {
		g.extra = append(g.extra, "-fw_cfg", "name=etc/boot/shim,file="+file(t, efiProgram()))
	},
	// The variable store is in the flash, which the guest reads unencrypted
	// under SEV and SEV-ES, so that the host can write it after the launch
	// was measured; Driver0000 names a program on a disk:
	// -drive if=pflash,unit=0,format=raw,file=FIRMWARE-WITH-VARIABLES -drive file=FAT-DISK,…
	"variables in flash": func(t *testing.T, g *guest) {
		units := [][]byte{storeVariables(t, read(t, stock(t)))}
		if g.firmware != stock(t) {
			// Ours has no store. The other's is put where it would be: right
			// before the firmware, as a second unit.
			units = [][]byte{read(t, g.firmware), units[0][:0x84000]}
		}
		for i, unit := range units {
			g.extra = append(g.extra, "-drive", fmt.Sprintf("if=pflash,format=raw,unit=%d,file=%s", i, file(t, unit)))
		}
		g.fatDisk(t)
	},
	// Every PCI device may bring a program. Upstream keeps it from running in
	// an encrypted guest, unless the host says that there is no 64-bit window
	// for devices (and without encryption, always):
	// -device virtio-rng-pci,romfile=ROM -fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=0
	"option ROM without a 64-bit window": func(t *testing.T, g *guest) {
		g.optionROM(t)
		g.extra = append(g.extra, "-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=0")
	},
	"option ROM": func(t *testing.T, g *guest) { g.optionROM(t) },
}

// fatDisk attaches a disk with the program under its own name, and with
// variables as OVMF keeps them where there is no flash; it is the first to
// boot from.
func (g *guest) fatDisk(t *testing.T) {
	t.Helper()
	disk := fatDisk(map[string][]byte{programFile: efiProgram(), "NVVARS": nvVars(), "STARTUP.NSH": []byte(programFile + "\r\n")})
	g.extra = append(g.extra, "-drive", "if=none,id=fat,format=raw,file="+file(t, disk), "-device", "virtio-blk-pci,drive=fat,serial=fat,bootindex=1,addr=0x1d")
}

func (g *guest) optionROM(t *testing.T) {
	t.Helper()
	g.extra = append(g.extra, "-device", "virtio-rng-pci,addr=0x1e,romfile="+file(t, optionROM(efiProgram(), 0x1af4, 0x1005)))
}

// TestStockRunsHostCode shows that each way in is one: what TestHostCode finds
// closed was open.
func TestStockRunsHostCode(t *testing.T) {
	t.Parallel()
	for name, open := range some(t, hostCode, "shim", "variables in flash", "option ROM without a 64-bit window") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := standardImage(t).boots(t)
			g.firmware = stock(t)
			said := g.spy(t)
			open(t, g)
			g.onStart = func(ctx context.Context, q *qmp.Client) error {
				go func() { // nothing that comes later counts
					for ctx.Err() == nil {
						if got, _ := os.ReadFile(said); string(got) == hostRan {
							break
						}
						time.Sleep(100 * time.Millisecond)
					}
					q.Execute(ctx, "quit", nil, nil)
				}()
				return nil
			}
			g.run(t, bootLimit)
			if got := string(read(t, said)); got != hostRan {
				t.Errorf("the host's program wrote %q; want %q", got, hostRan)
			}
		})
	}
}

// TestHostCode opens every way at once, with whatever else a firmware may take
// an order from. The guest boots as if nothing were there.
func TestHostCode(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	said := g.spy(t)
	for _, name := range slices.Sorted(maps.Keys(hostCode)) {
		if name != "option ROM" { // the other has the same arguments, and more
			hostCode[name](t, g)
		}
	}
	leak := g.hostileACPI(t)
	g.extra = append(g.extra, "-global", "fw_cfg_io.x-file-slots=128")
	program := file(t, efiProgram())
	for _, name := range []string{"etc/boot/other", "etc/boot/cmdline", "etc/boot/initrd", "etc/unknown", "opt/org.tianocore/X-Unknown", "genroms/host.rom", "vgaroms/host.rom"} {
		g.extra = append(g.extra, "-fw_cfg", "name="+name+",file="+program)
	}
	for name, value := range map[string]string{
		"opt/org.tianocore/X-Cpuhp-Bugcheck-Override": "yes", "opt/org.tianocore/FirmwareSetupSupport": "yes",
		"opt/org.tianocore/EFIShellSupport": "yes", "opt/org.tianocore/UninstallMemAttrProtocol": "y",
		"opt/org.tianocore/IPv4PXESupport": "y", "opt/ovmf/PcdSetNxForStack": "n", "opt/ovmf/X-PciMmio32Mb": "0",
	} {
		g.extra = append(g.extra, "-fw_cfg", "name="+name+",string="+value)
	}
	g.extra = append(g.extra, hostStrings(planted)...)
	g.extra = append(g.extra, "-smbios", "file="+file(t, []byte{133, 4, 0, 1, 0, 0}), "-boot", "menu=on,splash-time=9000")
	e := g.undisturbed(t)
	if !strings.Contains(e.console, "boot-test: ACPI APIC DSDT FACP FACS MCFG data dynamic \r\n") {
		t.Error("the kernel has other ACPI tables than the firmware's")
	}
	for _, path := range []string{said, leak} {
		if got := read(t, path); len(got) > 0 {
			t.Errorf("the host's code wrote %d bytes: %.64q", len(got), got)
		}
	}
}

// TestDevices boots beside devices of every kind that other firmware has
// drivers for, some with an option ROM, and 64 PCI devices.
func TestDevices(t *testing.T) {
	t.Parallel()
	g := standardImage(t).boots(t)
	said := g.spy(t)
	hostCode["option ROM"](t, g)
	g.fatDisk(t)
	rom := file(t, optionROM(efiProgram(), 0x8086, 0x100e))
	stick := file(t, fatDisk(map[string][]byte{programFile: efiProgram()}))
	tpm := softwareTPM(t)
	g.extra = append(g.extra,
		"-device", "VGA,romfile="+rom, "-device", "qemu-xhci,id=xhci", "-device", "usb-kbd,bus=xhci.0", "-device", "usb-tablet,bus=xhci.0",
		"-drive", "if=none,id=stick,format=raw,file="+stick, "-device", "usb-storage,bus=xhci.0,drive=stick",
		"-fsdev", "local,id=fs,security_model=none,readonly=on,path="+t.TempDir(), "-device", "virtio-9p-pci,fsdev=fs,mount_tag=host",
		"-netdev", "user,id=net,restrict=on", "-device", "e1000,netdev=net,romfile="+rom,
		"-device", "virtio-serial-pci", "-device", "virtio-balloon-pci", "-device", "pvpanic-pci", "-device", "ich9-ahci",
		"-chardev", "socket,id=tpm,path="+filepath.Join(tpm, "socket"), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
	)
	for i := range 64 {
		g.extra = append(g.extra, "-device", "virtio-rng-pci,multifunction=on,addr="+strconv.FormatInt(int64(0x10+i/8), 16)+"."+strconv.Itoa(i%8))
	}
	e := g.undisturbed(t)
	// 64, 11 before them, and the machine's own 4.
	if found := foundMachine.FindStringSubmatch(e.console); found == nil || found[3] != "79" {
		t.Errorf("the guest found %q; want 79 PCI devices", found)
	}
	if got := read(t, said); len(got) > 0 {
		t.Errorf("the host's code wrote %q", got)
	}
	// Debian's firmware sends more than 50 commands. QEMU asks once which TPM it is.
	if n := bytes.Count(read(t, filepath.Join(tpm, "log")), []byte("SWTPM_IO_Read:")); n != 1 {
		t.Errorf("the TPM got %d commands; want 1, QEMU's", n)
	}
}

// softwareTPM starts a TPM, and returns the folder of its socket and its log.
func softwareTPM(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, oracle.Tool(t, "swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "socket"), "--log", "level=20,file="+filepath.Join(dir, "log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for range 100 {
		if _, err := os.Stat(filepath.Join(dir, "socket")); err == nil {
			return dir
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the TPM has no socket")
	return ""
}
