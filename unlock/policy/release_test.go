package policy

import (
	"errors"
	"strings"
	"testing"
)

const ownerHex = "ed25519:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"

func withOwner(t *testing.T, more string) (Policy, error) {
	t.Helper()
	return Parse("cocoroot.disk=/dev/vda cocoroot.image=" + image + " rootfstype=squashfs " + more)
}

// The owner alone selects the path; the channel has a default.
func TestRelease(t *testing.T) {
	p, err := withOwner(t, "")
	if err != nil || p.Release.Asks() {
		t.Fatalf("without an owner: %+v, %v", p.Release, err)
	}
	for line, want := range map[string]string{
		"":                                        "serial:ttyS2",
		" cocoroot.channel=serial:ttyS1":          "serial:ttyS1",
		" cocoroot.channel=virtio:org.x.release":  "virtio:org.x.release",
		" cocoroot.channel=tcp:10.0.2.2:4000":     "tcp:10.0.2.2:4000",
		" cocoroot.channel=vsock:2:1995":          "vsock:2:1995",
		" cocoroot.channel=vsock:4294967295:1995": "vsock:4294967295:1995",
	} {
		p, err := withOwner(t, "cocoroot.owner="+ownerHex+line)
		if err != nil || !p.Release.Asks() || p.Release.Owner.String() != ownerHex || p.Release.Channel.String() != want {
			t.Errorf("%q: %+v, %v; want %s", line, p.Release, err, want)
		}
	}
}

func TestReleaseRefuses(t *testing.T) {
	if _, err := withOwner(t, "cocoroot.channel=serial:ttyS2"); !errors.Is(err, ErrMissing) {
		t.Errorf("a channel without an owner: %v", err)
	}
	for _, bad := range []string{"", "0102", ownerHex[:70], ownerHex + "00", "ed25519:" + strings.Repeat("0", 64), "rsa:" + ownerHex[8:], ownerHex[8:]} {
		if _, err := withOwner(t, "cocoroot.owner="+bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("owner %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "serial", "serial:", "serial:ttyS4", "serial:../ttyS0", "serial:tty", "virtio:", "virtio:a/b", "virtio:" + strings.Repeat("a", 65),
		"tcp:host:1", "tcp:10.0.2.2", "tcp:10.0.2.2:0", "tcp:10.0.2.2:65536", "tcp:[fd00::2]:1", "tcp:10.0.02.2:1", "tcp:10.0.2:1", "tcp:10.0.2.256:1", "vsock:2", "vsock:-1:1", "vsock:2:4294967296", "udp:10.0.2.2:1"} {
		if _, err := withOwner(t, "cocoroot.owner="+ownerHex+" cocoroot.channel="+bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("channel %q: %v", bad, err)
		}
	}
}

func TestStatic(t *testing.T) {
	for text, want := range map[string]Static{
		"dhcp": {}, "": {}, "::::::dhcp": {},
		"10.0.2.15::10.0.2.2:255.255.255.0::eth0:off": {IPv4{10, 0, 2, 15}, IPv4{255, 255, 255, 0}, IPv4{10, 0, 2, 2}, "eth0"},
		"10.0.2.15:::255.255.240.0":                   {IPv4{10, 0, 2, 15}, IPv4{255, 255, 240, 0}, IPv4{}, ""},
	} {
		if s, err := parseStatic(text); err != nil || s != want {
			t.Errorf("parseStatic(%q) = %v, %v; want %v", text, s, err, want)
		}
	}
	for _, bad := range []string{"10.0.2.15::10.0.2.2:24", "host::10.0.2.2:255.255.255.0", "10.0.2.15::gw:255.255.255.0", "10.0.2.15::10.0.2.2:255.255.255.0::../x"} {
		if s, err := parseStatic(bad); err == nil {
			t.Errorf("parseStatic(%q) = %+v", bad, s)
		}
	}
}
