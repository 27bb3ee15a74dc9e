package policy

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"cocoroot/unlock/efi"
)

const withCredential = least + " cocoroot.credential=db-password=" + guid

func TestCredentials(t *testing.T) {
	long := strings.Repeat("a", maxCredential)
	p, err := Parse(withCredential + " cocoroot.credential=" + long + "=22222222-2222-3333-4444-555555555555 cocoroot.keep=" + guid)
	if err != nil {
		t.Fatal(err)
	}
	want := []Credential{{"db-password", efi.MustParse(guid)}, {long, efi.MustParse("22222222-2222-3333-4444-555555555555")}}
	if !reflect.DeepEqual(p.Credentials, want) {
		t.Errorf("Credentials = %+v; want %+v", p.Credentials, want)
	}
	for _, c := range want {
		if again, err := ParseCredential(c.String()); err != nil || again != c {
			t.Errorf("ParseCredential(%s) = %+v, %v", c, again, err)
		}
		// It has a place of its own, even where cocoroot.keep= names it.
		if p.Kept(c.GUID) {
			t.Errorf("%s is kept", c)
		}
	}
}

func TestCredentialsRefused(t *testing.T) {
	const another, state = " cocoroot.credential=x=22222222-2222-3333-4444-555555555555", " cocoroot.state=db,/db,serial:db cocoroot.state-key="
	if _, err := Parse(withCredential + another); err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"same name":          withCredential + strings.Replace(another, "=x=", "=db-password=", 1),
		"same entry":         withCredential + " cocoroot.credential=x=" + guid,
		"the disk key":       least + " cocoroot.credential=x=" + DefaultKey.String(),
		"another disk key":   withCredential + " cocoroot.key=" + guid,
		"the states' key":    withCredential + state + guid,
		"the states' orders": least + " cocoroot.credential=x=" + Orders.String(),
		"no GUID":            least + " cocoroot.credential=x=00000000-0000-0000-0000-000000000000",
	} {
		if _, err := Parse(line); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: Parse error = %v; want ErrMalformed", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".x", "a/b", "a:b", "a b", "a\"b", "a,b", "\u00e4", "a\x00", "a=b", strings.Repeat("a", maxCredential+1)} {
		if c, err := ParseCredential(name + "=" + guid); err == nil {
			t.Errorf("ParseCredential of the name %q = %+v; want an error", name, c)
		}
	}
	for _, bad := range []string{"", "x", "x=", guid, "x=" + guid + "=", "x=" + guid[1:]} {
		if c, err := ParseCredential(bad); err == nil {
			t.Errorf("ParseCredential(%q) = %+v; want an error", bad, c)
		}
	}
}
