package unseal

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/anatol/luks.go"

	"cocoroot/unlock/fatal"
	"cocoroot/unlock/luks2"
)

// shell starts a child that ends as the script says.
func shell(t *testing.T, script string) *os.Process {
	t.Helper()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Only a report of success and a clean end together are a success.
func TestWait(t *testing.T) {
	const good = `{"steps":[{"name":"verity","ns":5}]}`
	for name, tc := range map[string]struct {
		script, report string
		want           fatal.Code
	}{
		"success":              {"exit 0", good, ""},
		"success, then death":  {"exit 1", good, fatal.Crash},
		"success, then signal": {"kill -9 $$", good, fatal.Crash},
		"a code":               {"exit 0", `{"code":"LUKS-KEY","text":"no"}`, fatal.LUKSKey},
		"no word":              {"exit 0", "", fatal.Crash},
		"half a word":          {"exit 0", `{"steps":[`, fatal.Crash},
		"endless":              {"exit 0", strings.Repeat(" ", maxReport) + good, fatal.Crash},
	} {
		r, err := wait(shell(t, tc.script), strings.NewReader(tc.report))
		got := fatal.Code("")
		if err != nil {
			got = fatal.CodeOf(err, "no code")
		}
		if got != tc.want {
			t.Errorf("%s: code = %q (%v); want %q", name, got, err, tc.want)
		}
		if tc.want == "" && (len(r.Steps) != 1 || r.Steps[0].Name != "verity") {
			t.Errorf("%s: steps = %v", name, r.Steps)
		}
	}
}

func TestSameVolume(t *testing.T) {
	info := luks2.Info{UUID: "u", Encryption: luks2.Encryption, SectorSize: 4096, Offset: 1 << 20, Size: 8192}
	good := luks.Volume{BackingDevice: "/dev/dm-0", UUID: "u", LuksType: "LUKS2", StorageEncryption: luks2.Encryption,
		StorageSectorSize: 4096, StorageOffset: 1 << 20, StorageSize: 8192}
	if err := sameVolume(&good, "/dev/dm-0", info); err != nil {
		t.Fatalf("sameVolume = %v; want nil", err)
	}
	changes := map[string]func(*luks.Volume){
		"BackingDevice":     func(v *luks.Volume) { v.BackingDevice = "/dev/vda" },
		"Flags":             func(v *luks.Volume) { v.Flags = []string{"allow-discards"} },
		"UUID":              func(v *luks.Volume) { v.UUID = "x" },
		"LuksType":          func(v *luks.Volume) { v.LuksType = "LUKS1" },
		"StorageEncryption": func(v *luks.Volume) { v.StorageEncryption = "cipher_null-ecb" },
		"StorageIvTweak":    func(v *luks.Volume) { v.StorageIvTweak = 1 },
		"StorageSectorSize": func(v *luks.Volume) { v.StorageSectorSize = 512 },
		"StorageOffset":     func(v *luks.Volume) { v.StorageOffset = 0 },
		"StorageSize":       func(v *luks.Volume) { v.StorageSize = 4096 },
	}
	for name, change := range changes {
		v := good
		change(&v)
		if err := sameVolume(&v, "/dev/dm-0", info); fatal.CodeOf(err, "") != fatal.LUKSHeader {
			t.Errorf("%s: sameVolume = %v; want LUKS-HEADER", name, err)
		}
	}
	// A field that a newer library adds has to be thought about.
	for _, f := range reflect.VisibleFields(reflect.TypeFor[luks.Volume]()) {
		if f.IsExported() && changes[f.Name] == nil {
			t.Errorf("sameVolume does not know luks.Volume.%s", f.Name)
		}
	}
}
