package disk

import (
	"errors"
	"testing"
	"testing/fstest"

	"cocoroot/unlock/policy"
)

func file(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

var sys = fstest.MapFS{
	"class/block/vda/size":    file("2048\n"),
	"class/block/vda/serial":  file("root\n"),
	"class/block/vda/uevent":  file("DEVNAME=vda\nDEVTYPE=disk\n"),
	"class/block/vdb/size":    file("4096\n"),
	"class/block/vdb/serial":  file("\n"),
	"class/block/vdb1/size":   file("1024\n"),
	"class/block/vdb1/uevent": file("PARTN=1\nPARTNAME=cocoroot-a\n"),
	"class/block/vdc/size":    file("many\n"),
}

func TestFind(t *testing.T) {
	for _, tc := range []struct {
		want string
		path string
		size uint64
	}{
		{"/dev/vdb", "/dev/vdb", 4096 * 512},
		{"serial:root", "/dev/vda", 2048 * 512},
		{"PARTLABEL=cocoroot-a", "/dev/vdb1", 1024 * 512},
	} {
		want, err := policy.ParseDisk(tc.want)
		if err != nil {
			t.Fatal(err)
		}
		d, err := find(sys, want)
		if err != nil || d != (Disk{tc.path, tc.size}) {
			t.Errorf("find(%s) = %+v, %v; want %s of %d bytes", tc.want, d, err, tc.path, tc.size)
		}
	}
}

func TestFindAbsent(t *testing.T) {
	for _, s := range []string{"/dev/vdz", "/dev/vda1", "serial:roo", "PARTLABEL=cocoroot"} {
		want, err := policy.ParseDisk(s)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := find(sys, want); !errors.Is(err, ErrAbsent) {
			t.Errorf("find(%s) = %+v, %v; want ErrAbsent", s, d, err)
		}
	}
	if _, err := find(fstest.MapFS{}, policy.Disk{Kind: policy.ByPath, Name: "vda"}); !errors.Is(err, ErrAbsent) {
		t.Errorf("find without devices: %v; want ErrAbsent", err)
	}
}

func TestFindBadSize(t *testing.T) {
	if _, err := find(sys, policy.Disk{Kind: policy.ByPath, Name: "vdc"}); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("find with a size that is no number: %v; want an error of its own", err)
	}
}

func TestCheckSize(t *testing.T) {
	if _, err := check(Disk{"/dev/null", 100}, 101); !errors.Is(err, ErrSmall) {
		t.Errorf("check(100 bytes, need 101) = %v; want ErrSmall", err)
	}
	if _, err := check(Disk{"/dev/null", 101}, 101); err == nil {
		t.Error("check(character device) succeeded; want an error")
	}
}
