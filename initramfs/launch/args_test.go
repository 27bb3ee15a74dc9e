package launch

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/measure"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestArguments(t *testing.T) {
	fw := ovmf.Firmware{Secret: ovmf.Area{Base: 0x810000, Size: 0xc00}, Hashes: ovmf.Area{Base: 0x810c00, Size: 0x400}}
	full := Config{
		Cmdline: "console=ttyS0, quiet",
		Disks:   []Disk{{Path: "/images/a,b.img", Serial: "root"}, {Path: "/dev/sdb", Writable: true}},
		Memory:  2048, CPUs: 2, Accel: "tcg",
		QMPSocket:  "/run/qmp,1",
		ExtraArgs:  []string{"-device", "virtio-rng-pci"},
		OnShutdown: func(context.Context, *qmp.Client) error { return nil },
	}
	fullNames := names{
		firmware: "/proc/self/fd/3", kernel: "/proc/self/fd/4", initrd: "/proc/self/fd/5",
		hashes: "/proc/self/fd/6", secret: "/proc/self/fd/7", console: "/proc/self/fd/8", control: "9",
	}
	least := Config{Memory: 1024, CPUs: 1, Accel: "kvm"}
	leastNames := names{firmware: "OVMF,1.fd", kernel: "bz,Image"}
	paper := names{firmware: "OVMF.fd", kernel: "bzImage", initrd: "initrd.img"}
	passed := fullNames
	passed.hashes, passed.secret = "", ""
	init2 := confidential(ModeES)
	init2.SEV.VMType = measure.Init2
	serial, port := asking(policy.Channel{Kind: policy.Serial, Name: "ttyS2"}), asking(policy.Channel{Kind: policy.Virtio, Name: "org.cocoroot.release"})
	port.SEV.HostData, port.SEV.ID = [32]byte{0: 1, 31: 2}, &ID{Block: "QmxvY2s=", Auth: "QXV0aA==", AuthorKey: true}
	for _, tt := range []struct {
		golden string
		c      Config
		v      Version
		n      names
	}{
		{"full-7.2", full, Version{7, 2}, fullNames},
		{"full-10.0", full, Version{10, 0}, fullNames},
		{"least-9.2", least, Version{9, 2}, leastNames},
		{"least-11.1", least, Version{11, 1}, leastNames},
		{"sev-7.2", confidential(ModeSEV), Version{7, 2}, paper},
		{"sev-es-7.2", confidential(ModeES), Version{7, 2}, passed},
		{"sev-es-9.1", confidential(ModeES), Version{9, 1}, paper},
		{"sev-es-init2-10.0", init2, Version{10, 0}, paper},
		{"sev-snp-10.0", confidential(ModeSNP), Version{10, 0}, paper},
		{"sev-snp-serial-10.0", serial, Version{10, 0}, paper},
		{"sev-snp-virtio-10.0", port, Version{10, 0}, paper},
	} {
		path := filepath.Join("testdata", "args-"+tt.golden+".txt")
		got := strings.Join(arguments(tt.c, tt.v, fw, tt.n), "\n") + "\n"
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("arguments for %s =\n%s\nwant\n%s", tt.golden, got, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": {7, 2},
		"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\n":             {10, 0},
		"QEMU emulator version 8.1rc0":                                              {8, 1},
		"QEMU emulator version 9.2":                                                 {9, 2}, "7.2": {7, 2}, "10.0.2": {10, 0},
	} {
		if got, err := ParseVersion(text); err != nil || got != want {
			t.Errorf("ParseVersion(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "\n", "QEMU emulator version ", "QEMU emulator version 7", "QEMU emulator version x.2", "QEMU emulator version 7.-2", "qemu-img version 7.2", "QEMU emulator version 99999999999.1"} {
		if got, err := ParseVersion(text); err == nil {
			t.Errorf("ParseVersion(%q) = %v, %v; want an error", text, got, err)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, tt := range []struct {
		v            Version
		major, minor int
		want         bool
	}{
		{Version{8, 1}, 8, 1, true}, {Version{8, 0}, 8, 1, false}, {Version{9, 0}, 8, 1, true}, {Version{7, 2}, 8, 1, false}, {Version{10, 0}, 10, 0, true},
	} {
		if got := tt.v.AtLeast(tt.major, tt.minor); got != tt.want {
			t.Errorf("%v.AtLeast(%d, %d) = %v", tt.v, tt.major, tt.minor, got)
		}
	}
}

func TestNetworkArguments(t *testing.T) {
	if got := (Config{}).network(); got != nil {
		t.Errorf("without ports: %q; want no card", got)
	}
	got := strings.Join(Config{Forwards: []Forward{{Host: 8022, Guest: 22}, {Host: 8080, Guest: 80}, {Host: 5353, Guest: 53, UDP: true}}, SEV: new(SEV)}.network(), " ")
	want := "-netdev user,id=net,hostfwd=tcp:127.0.0.1:8022-:22,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:127.0.0.1:5353-:53 " +
		"-device virtio-net-pci,netdev=net,romfile=,disable-legacy=on,iommu_platform=on"
	if got != want {
		t.Errorf("arguments = %s\nwant        %s", got, want)
	}
}

func TestParseForward(t *testing.T) {
	if f, err := ParseForward("8022:22"); err != nil || f != (Forward{Host: 8022, Guest: 22}) {
		t.Errorf("ParseForward = %v, %v", f, err)
	}
	if f, err := ParseForward("5353:53/udp"); err != nil || f != (Forward{Host: 5353, Guest: 53, UDP: true}) {
		t.Errorf("ParseForward = %v, %v", f, err)
	}
	for _, bad := range []string{"", "22", "5353:53/", "5353/udp:53", ":22", "22:", "0:22", "22:0", "65536:22", "-1:22", "1:2:3", "8022:22,guestfwd=x"} {
		if f, err := ParseForward(bad); err == nil {
			t.Errorf("ParseForward(%q) = %v; want an error", bad, f)
		}
	}
}
