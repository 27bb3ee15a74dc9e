package policy

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"cocoroot/unlock/efi"
)

const withKey = least + " cocoroot.state-key=" + guid

func TestStates(t *testing.T) {
	p, err := Parse(withKey + " cocoroot.state=db,/var/lib/db,serial:one cocoroot.state=logs-2,/var/log,PARTLABEL=logs cocoroot.overlay=ephemeral:/dev/vdd")
	if err != nil {
		t.Fatal(err)
	}
	want := []State{{"db", "/var/lib/db", Disk{BySerial, "one"}}, {"logs-2", "/var/log", Disk{ByPARTLABEL, "logs"}}}
	if !reflect.DeepEqual(p.States, want) || p.StateKey != efi.MustParse(guid) || p.Overlay != (Overlay{Scratch: Disk{ByPath, "vdd"}}) {
		t.Errorf("Parse = %+v", p)
	}
	for _, s := range want {
		if again, err := ParseState(s.String()); err != nil || again != s {
			t.Errorf("ParseState(%s) = %+v, %v", s, again, err)
		}
	}
}

func TestStatesRefused(t *testing.T) {
	const db = " cocoroot.state=db,/db,serial:db"
	most := ""
	for _, c := range "abcdefgh" {
		most += " cocoroot.state=" + string(c) + ",/" + string(c) + ",serial:" + string(c)
	}
	if _, err := Parse(withKey + most); err != nil {
		t.Errorf("%d states: %v", MaxStates, err)
	}
	for name, tc := range map[string]struct {
		line string
		want error
	}{
		"no key":            {least + db, ErrMissing},
		"a key for nothing": {withKey, ErrMissing},
		"key twice":         {withKey + db + " cocoroot.state-key=" + guid, ErrRepeated},
		"key of the disk":   {least + db + " cocoroot.state-key=" + DefaultKey.String(), ErrMalformed},
		"key of the orders": {least + db + " cocoroot.state-key=" + Orders.String(), ErrMalformed},
		"disk key, orders":  {least + " cocoroot.key=" + Orders.String(), ErrMalformed},
		"null key":          {least + db + " cocoroot.state-key=00000000-0000-0000-0000-000000000000", ErrMalformed},
		"too many":          {withKey + most + db, ErrMalformed},
		"same line":         {withKey + db + db, ErrMalformed},
		"same name":         {withKey + db + " cocoroot.state=db,/x,serial:x", ErrMalformed},
		"same path":         {withKey + db + " cocoroot.state=x,/db,serial:x", ErrMalformed},
		"path below":        {withKey + db + " cocoroot.state=x,/db/x,serial:x", ErrMalformed},
		"path above":        {withKey + " cocoroot.state=x,/a/b,serial:x cocoroot.state=y,/a,serial:y", ErrMalformed},
		"over the program":  {withKey + " init=/cocoroot/run cocoroot.state=x,/cocoroot,serial:x", ErrMalformed},
		"over init":         {withKey + " cocoroot.state=x,/sbin,serial:x", ErrMalformed},
		"beside dots":       {withKey + " init=/a/../srv/x cocoroot.state=x,/srv,serial:x", ErrMalformed},
		"same disk":         {withKey + db + " cocoroot.state=x,/x,serial:db", ErrMalformed},
		"the image's disk":  {withKey + " cocoroot.state=x,/x,/dev/vda", ErrMalformed},
		"the scratch disk":  {withKey + db + " cocoroot.overlay=ephemeral:serial:db", ErrMalformed},
		"image as scratch":  {least + " cocoroot.overlay=ephemeral:/dev/vda", ErrMalformed},
		"scratch, no disk":  {least + " cocoroot.overlay=ephemeral:", ErrMalformed},
		"scratch, a size":   {least + " cocoroot.overlay=ephemeral:64M", ErrMalformed},
		"case":              {withKey + db + " cocoroot.State=x,/x,serial:x", ErrUnknown},
	} {
		if _, err := Parse(tc.line); !errors.Is(err, tc.want) {
			t.Errorf("%s: Parse error = %v; want %v", name, err, tc.want)
		}
	}
	for _, bad := range []string{
		"", "db", "db,/db", "db,/db,serial:x,", ",/db,serial:x", "db,,serial:x", "db,/db,", "db,/db,x",
		"1db,/db,serial:x", "-db,/db,serial:x", "DB,/db,serial:x", "d.b,/db,serial:x", "d/b,/db,serial:x", strings.Repeat("a", 33) + ",/db,serial:x",
		"db,db,serial:x", "db,/,serial:x", "db,//db,serial:x", "db,/db/,serial:x", "db,/a/../b,serial:x", "db,/./b,serial:x", "db,/a b,serial:x",
		"db,/a\"b,serial:x", "db,/a\\b,serial:x", "db,/a\tb,serial:x", "db,/\u00e4,serial:x", "db,/" + strings.Repeat("a", 255) + ",serial:x",
		"db,/proc,serial:x", "db,/proc/x,serial:x", "db,/sys/fs,serial:x", "db,/dev,serial:x", "db,/run/db,serial:x",
	} {
		if s, err := ParseState(bad); err == nil {
			t.Errorf("ParseState(%q) = %+v; want an error", bad, s)
		}
	}
	for _, good := range []string{"/procs", "/runs/x", "/" + strings.Repeat("a", 254), "/srv/.hidden/a+b@c"} {
		if err := CheckStatePath(good); err != nil {
			t.Errorf("CheckStatePath(%s) = %v", good, err)
		}
	}
}

// The workload gets none of the entries that are for init, even by name.
func TestKept(t *testing.T) {
	state, other := efi.MustParse(guid), efi.MustParse("22222222-2222-3333-4444-555555555555")
	for _, keep := range []string{"all", strings.Join([]string{guid, DefaultKey.String(), Orders.String(), other.String()}, ",")} {
		p, err := Parse(withKey + " cocoroot.state=db,/db,serial:db cocoroot.keep=" + keep)
		if err != nil {
			t.Fatal(err)
		}
		if p.Kept(state) || p.Kept(DefaultKey) || p.Kept(Orders) || !p.Kept(other) {
			t.Errorf("keep=%s: Kept is wrong", keep)
		}
	}
	if p := Defaults(); p.Kept(Orders) || p.Kept(DefaultStateKey) {
		t.Error("without states the workload gets the orders, or the key of states")
	}
}

func TestOverlay(t *testing.T) {
	for _, s := range []string{"none", "ram", "ram:64M", "ram:25%", "ephemeral:serial:x", "ephemeral:/dev/vdb"} {
		if o, err := ParseOverlay(s); err != nil || o.String() != s {
			t.Errorf("ParseOverlay(%s) = %+v, %v", s, o, err)
		}
	}
}
