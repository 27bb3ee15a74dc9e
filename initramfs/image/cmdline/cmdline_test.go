package cmdline

import (
	"reflect"
	"slices"
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
	got, err := Build(somePolicy(), Options{Login: true, Append: "quiet cocoroot.timeout=5s -- single"})
	if err != nil {
		t.Fatal(err)
	}
	want := "console=ttyS0 panic=-1 oops=panic init_on_free=1 init_on_alloc=1 random.trust_bootloader=off quiet " +
		"systemd.import_credentials=no systemd.gpt_auto=no systemd.swap=no systemd.ssh_auto=no rootfstype=squashfs " +
		"cocoroot.disk=/dev/vda cocoroot.image=verity:sha256:4096:7:0102:" + strings.Repeat("0", 64) +
		" quiet cocoroot.timeout=5s -- single"
	if got != want {
		t.Errorf("Build = %s\nwant    %s", got, want)
	}
}

// TestBuildWithoutLogin: systemd's logins are kept away unless asked for.
func TestBuildWithoutLogin(t *testing.T) {
	got, err := Build(somePolicy(), Options{})
	if want := " systemd.getty_auto=no systemd.firstboot=no systemd.mask=getty@.service systemd.mask=emergency.service systemd.mask=rescue.service "; err != nil || !strings.Contains(got, want) {
		t.Errorf("Build = %s, %v; want%q in it", got, err, want)
	}
}

// What a policy says of disks that can be written stands in the line.
func TestBuildDisks(t *testing.T) {
	p := somePolicy()
	p.Overlay = policy.Overlay{Scratch: policy.Disk{Kind: policy.BySerial, Name: "scratch"}}
	p.States = []policy.State{
		{Name: "db", Path: "/var/lib/db", Disk: policy.Disk{Kind: policy.BySerial, Name: "db"}},
		{Name: "x", Path: "/x", Disk: policy.Disk{Kind: policy.BySerial, Name: "x"}},
	}
	p.StateKey = policy.DefaultStateKey
	line, err := Build(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if read, err := policy.Parse(line); err != nil || !reflect.DeepEqual(read, p) {
		t.Errorf("Build = %s, which is read as %+v, %v", line, read, err)
	}
	p.StateKey = policy.DefaultKey
	if line, err := Build(p, Options{}); err == nil {
		t.Errorf("Build with one entry for two keys = %s", line)
	}
}

func TestBuildInit(t *testing.T) {
	p := somePolicy()
	p.Init = "/app"
	if got, err := Build(p, Options{Append: "-- serve"}); err != nil || !strings.Contains(got, " init=/app ") {
		t.Errorf("Build = %s, %v; want init=/app in it", got, err)
	}
	if got, err := Build(p, Options{Append: "init=/other"}); err == nil || !strings.Contains(err.Error(), "another init") {
		t.Errorf("Build with another init = %s, %v; want an error", got, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, appended, want string
	}{
		{"long", strings.Repeat("x", 2000), "too long"},
		{"line break", "a\nb", "a character that is not allowed"},
		{"not ASCII", "ä", "a character that is not allowed"},
		{"unknown", "cocoroot.debug=1", policy.ErrUnknown.Error()},
		{"repeated", "cocoroot.disk=/dev/vdb", policy.ErrRepeated.Error()},
		{"ACPI again", "acpi=force", "its own acpi="},
		{"power-off without ACPI", "cocoroot.onfail=poweroff", policy.ErrRepeated.Error()},
	} {
		if _, err := Build(somePolicy(), Options{NoACPI: true, Append: tc.appended}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Build error = %v; want %v", tc.name, err, tc.want)
		}
	}
	if _, err := Build(somePolicy(), Options{Append: "rootfstype=ext4"}); err == nil {
		t.Error("Build took a second rootfstype")
	}
}

func TestBuildWithoutACPI(t *testing.T) {
	for onFail, want := range map[policy.Action]policy.Action{
		policy.PowerOff: policy.Reboot, // a power-off would only halt
		policy.Reboot:   policy.Reboot,
		policy.Halt:     policy.Halt,
	} {
		p := somePolicy()
		p.OnFail = onFail
		line, err := Build(p, Options{NoACPI: true})
		if err != nil {
			t.Fatal(err)
		}
		read, err := policy.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(strings.Fields(line), "acpi=off") || read.OnFail != want {
			t.Errorf("%s: Build = %s\nwant acpi=off and cocoroot.onfail=%s", onFail, line, want)
		}
	}
}

// A panic cannot wipe: no line may leave the guest standing there with its
// memory.
func TestPanicEnds(t *testing.T) {
	for _, o := range []Options{{}, {NoACPI: true}} {
		line, err := Build(somePolicy(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"panic=-1", "oops=panic"} {
			if !slices.Contains(strings.Fields(line), want) {
				t.Errorf("Build(%+v) = %s\nlacks %s", o, line, want)
			}
		}
	}
}
