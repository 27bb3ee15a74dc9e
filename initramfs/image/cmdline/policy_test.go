package cmdline

import (
	"reflect"
	"strings"
	"testing"

	"cocoroot/unlock/policy"
)

const (
	least = "cocoroot.disk=/dev/vda cocoroot.image=verity:sha256:4096:1000:00ff:" +
		"aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55aa55 rootfstype=squashfs"
	guid = "11111111-2222-3333-4444-555555555555"
)

func TestOursRoundTrip(t *testing.T) {
	for _, extra := range []string{"", " cocoroot.modules=open", " cocoroot.key=" + guid, " cocoroot.overlay=none cocoroot.keep=none",
		" cocoroot.onfail=reboot cocoroot.timeout=1m30s cocoroot.overlay=ram:25% cocoroot.keep=" + guid} {
		p, err := policy.Parse(least + extra)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Parse(strings.Join(ours(p), " ") + " rootfstype=squashfs")
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Errorf("Parse(ours) = %+v, %v; want %+v", again, err, p)
		}
	}
}

var seeds = []string{
	least,
	least + " cocoroot.key=" + guid + " cocoroot.keep=" + guid + " cocoroot.overlay=ram:1G cocoroot.modules=open",
	least + ` rootflags="a b" init=/x -- y`,
	strings.Replace(least, "/dev/vda", "PARTUUID="+strings.ToUpper(guid), 1),
	strings.Replace(least, "/dev/vda", "/dev/cciss/c0d0", 1),
}

// FuzzParse shows that no line crashes the parser and that what it accepts is
// what it writes. The line is the owner's, but nobody vouches for typing.
func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := policy.Parse(line)
		if err != nil {
			return
		}
		again, err := policy.Parse(strings.Join(ours(p), " ") + " rootfstype=" + string(p.FSType))
		if err != nil {
			t.Fatalf("Parse(ours of %q): %v", line, err)
		}
		again.RootFlags, again.Init = p.RootFlags, p.Init
		if !reflect.DeepEqual(p, again) {
			t.Fatalf("Parse(ours) = %+v; want %+v", again, p)
		}
	})
}

func TestFuzzParseSeeds(t *testing.T) {
	for _, s := range seeds {
		if _, err := policy.Parse(s); err != nil {
			t.Errorf("seed %q: %v", s, err)
		}
	}
}
