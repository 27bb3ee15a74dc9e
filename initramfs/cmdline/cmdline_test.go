package cmdline

import (
	"errors"
	"strings"
	"testing"

	"cocoroot/unlock/policy"
	"cocoroot/unlock/verity"
)

func somePolicy() policy.Policy {
	p := policy.Defaults()
	p.Disk = policy.Disk{Kind: policy.ByPath, Name: "vda"}
	p.FSType = policy.Squashfs
	p.Image = verity.Params{DataBlocks: 7, Salt: []byte{1, 2}}
	return p
}

func TestBuild(t *testing.T) {
	got, err := Build(somePolicy(), "quiet cocoroot.timeout=5s -- single")
	if err != nil {
		t.Fatal(err)
	}
	want := "console=ttyS0 panic=-1 oops=panic init_on_free=1 random.trust_bootloader=off " +
		"systemd.import_credentials=no systemd.gpt_auto=no systemd.swap=no rootfstype=squashfs " +
		"cocoroot.disk=/dev/vda cocoroot.image=verity:sha256:4096:7:0102:" + strings.Repeat("0", 64) +
		" quiet cocoroot.timeout=5s -- single"
	if got != want {
		t.Errorf("Build = %s\nwant    %s", got, want)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, appended string
		want           error
	}{
		{"long", strings.Repeat("x", 2000), ErrTooLong},
		{"line break", "a\nb", ErrText},
		{"not ASCII", "ä", ErrText},
		{"unknown", "cocoroot.debug=1", policy.ErrUnknown},
		{"repeated", "cocoroot.disk=/dev/vdb", policy.ErrRepeated},
	} {
		if _, err := Build(somePolicy(), tc.appended); !errors.Is(err, tc.want) {
			t.Errorf("%s: Build error = %v; want %v", tc.name, err, tc.want)
		}
	}
	if _, err := Build(somePolicy(), "rootfstype=ext4"); err == nil {
		t.Error("Build took a second rootfstype")
	}
}
