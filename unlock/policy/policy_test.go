package policy

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"cocoroot/unlock/efi"
)

const (
	image = "verity:sha256:4096:1000:00ff:" + "aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55"
	least = "cocoroot.disk=/dev/vda cocoroot.image=" + image + " rootfstype=squashfs"
	guid  = "11111111-2222-3333-4444-555555555555"
)

func TestParseDefaults(t *testing.T) {
	// OVMF puts initrd=initrd before what the owner wrote.
	p, err := Parse("initrd=initrd console=ttyS0 " + least + "\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Disk = Disk{ByPath, "vda"}
	want.FSType = Squashfs
	want.Image = p.Image
	if !reflect.DeepEqual(p, want) {
		t.Errorf("Parse = %+v; want %+v", p, want)
	}
	if got := p.Image.String(); got != image {
		t.Errorf("Image = %s; want %s", got, image)
	}
}

func TestParseEverything(t *testing.T) {
	p, err := Parse(`cocoroot.disk=serial:root cocoroot.image=` + image + ` cocoroot.key=` + guid +
		` cocoroot.overlay=ram:64M cocoroot.onfail=halt cocoroot.keep=` + guid + ` cocoroot.timeout=5s cocoroot.modules=open` +
		` rootfstype=ext4 rootflags="errors=panic" init=/usr/bin/app -- cocoroot.disk=x`)
	if err != nil {
		t.Fatal(err)
	}
	g := efi.MustParse(guid)
	want := Policy{
		Disk: Disk{BySerial, "root"}, Image: p.Image, Key: g,
		Overlay: Overlay{RAM: true, Size: "64M"}, OnFail: Halt,
		Keep: Keep{GUIDs: []efi.GUID{g}}, Timeout: 5 * time.Second, Modules: Open,
		FSType: Ext4, RootFlags: "errors=panic", Init: "/usr/bin/app",
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("Parse = %+v; want %+v", p, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       error
	}{
		{"empty", "", ErrMissing},
		{"no disk", "rootfstype=squashfs cocoroot.image=" + image, ErrMissing},
		{"no image", "rootfstype=squashfs cocoroot.disk=/dev/vda", ErrMissing},
		{"no file system", "cocoroot.disk=/dev/vda cocoroot.image=" + image, ErrMissing},
		{"after --", "-- " + least, ErrMissing},
		{"unknown", least + " cocoroot.shell=1", ErrUnknown},
		{"upper case", least + " Cocoroot.key=" + guid, ErrUnknown},
		{"no dot", least + " cocoroot", ErrUnknown},
		{"underscore", least + " cocoroot_key=" + guid, ErrUnknown},
		{"quoted name", least + ` "cocoroot.shell=1"`, ErrUnknown},
		{"repeated", least + " cocoroot.disk=/dev/vda", ErrRepeated},
		{"empty value", least + " cocoroot.key=", ErrMalformed},
		{"null key", least + " cocoroot.key=00000000-0000-0000-0000-000000000000", ErrMalformed},
		{"overlay", least + " cocoroot.overlay=disk", ErrMalformed},
		{"overlay size", least + " cocoroot.overlay=ram:1M,mode=777", ErrMalformed},
		{"onfail", least + " cocoroot.onfail=shell", ErrMalformed},
		{"keep", least + " cocoroot.keep=some", ErrMalformed},
		{"keep twice", least + " cocoroot.keep=" + guid + "," + guid, ErrMalformed},
		{"timeout", least + " cocoroot.timeout=-1s", ErrMalformed},
		{"modules", least + " cocoroot.modules=yes", ErrMalformed},
		{"modules in upper case", least + " cocoroot.modules=Open", ErrMalformed},
		{"modules twice", least + " cocoroot.modules=closed cocoroot.modules=open", ErrRepeated},
		{"stdin", least + " cocoroot.stdin=tty", ErrMalformed},
		{"timeout long", least + " cocoroot.timeout=9000h", ErrMalformed},
		{"quote inside", least + ` cocoroot.key=1"1`, ErrMalformed},
		{"path", strings.Replace(least, "/dev/vda", "/dev/../vda", 1), ErrMalformed},
		{"not under dev", strings.Replace(least, "/dev/vda", "/vda", 1), ErrMalformed},
		{"disk not a name", strings.Replace(least, "/dev/vda", "UUID="+guid, 1), ErrMalformed},
		{"file system", strings.Replace(least, "squashfs", "ntfs", 1), ErrMalformed},
		{"relative init", least + " init=sh", ErrMalformed},
		{"a space to the kernel only", least + " x=\xa0panic=0", ErrMalformed},
		{"no ASCII", least + " x=\u00e0", ErrMalformed},
		{"escape", least + " x=\x1b[2J", ErrMalformed},
		{"second line", least + "\npanic=0", ErrMalformed},
		{"too long", least + strings.Repeat(" x", MaxLength), ErrMalformed},
		{"block size", strings.Replace(least, ":4096:", ":512:", 1), ErrMalformed},
		{"hash", strings.Replace(least, ":sha256:", ":sha1:", 1), ErrMalformed},
	} {
		if _, err := Parse(tc.line); !errors.Is(err, tc.want) {
			t.Errorf("%s: Parse error = %v; want %v", tc.name, err, tc.want)
		}
	}
}

func TestParseDisk(t *testing.T) {
	const upper = "AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE"
	for _, tc := range []struct {
		text string
		want Disk
	}{
		{"/dev/nvme0n1p2", Disk{ByPath, "nvme0n1p2"}},
		{"/dev/cciss/c0d0", Disk{ByPath, "cciss/c0d0"}},
		{"serial:vol0123456789abcdef0", Disk{BySerial, "vol0123456789abcdef0"}},
		{"serial:" + guid, Disk{BySerial, guid}},
		{"PARTUUID=" + upper, Disk{ByPARTUUID, strings.ToLower(upper)}},
		{"PARTLABEL=" + strings.Repeat("x", 36), Disk{ByPARTLABEL, strings.Repeat("x", 36)}},
	} {
		d, err := ParseDisk(tc.text)
		if err != nil || d != tc.want {
			t.Errorf("ParseDisk(%s) = %+v, %v; want %+v", tc.text, d, err, tc.want)
		}
		if again, err := ParseDisk(d.String()); err != nil || again != d {
			t.Errorf("ParseDisk(%s) = %+v, %v; want %+v", d, again, err, d)
		}
	}
}

func TestParseDiskRefuses(t *testing.T) {
	for _, s := range []string{
		"", "vda", "/dev/", "/dev/..", "/dev/a/", "/dev//a", "/dev/a/../b", "/dev/cciss!c0d0", "/dev/a/b/c",
		"/dev/disk/by-id", "/dev/mapper/root", "/dev/" + strings.Repeat("x", 33),
		"serial:", "serial:a b", "serial:" + strings.Repeat("x", 65),
		"PARTUUID=", "PARTUUID=12345678-01", "PARTUUID=" + guid + "0", "PARTUUID=" + strings.Replace(guid, "1", "g", 1),
		"PARTUUID=00000000-0000-0000-0000-000000000000", "partuuid=" + guid, "UUID=" + guid,
		"PARTLABEL=" + strings.Repeat("x", 37), "LABEL=root",
	} {
		if d, err := ParseDisk(s); err == nil {
			t.Errorf("ParseDisk(%q) = %+v; want an error", s, d)
		}
	}
}
