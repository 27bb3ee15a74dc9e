package program

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"cocoroot/unlock/efi"
)

// whole returns a description that has everything.
func whole() Spec {
	return Spec{
		Version: version, Path: "/usr/bin/app", Args: []string{"app", "serve"}, Env: []string{"HOME=/", "EMPTY="}, Dir: "/srv",
		UID: 1000, GID: 100, Groups: []uint32{4, 5}, StopSignal: 15, Grace: 10, Hostname: "guest",
		Network: Network{Address: netip.MustParsePrefix("10.0.0.2/24"), Gateway: netip.MustParseAddr("10.0.0.1"), DNS: []netip.Addr{netip.MustParseAddr("fd00::1")}},
		Secrets: []Secret{
			{GUID: efi.MustParse("11111111-2222-3333-4444-555555555555"), File: "db-password"},
			{GUID: efi.MustParse("11111111-2222-3333-4444-555555555556"), Env: "TOKEN"},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	least := Spec{Version: version, Path: "/app", Args: []string{"app"}, Dir: "/", StopSignal: 64, Hostname: "a"}
	for _, s := range []Spec{whole(), least} {
		text, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(text)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("Parse = %+v, %v; want %+v", got, err, s)
		}
	}
}

// What Marshal would not have written is refused, whatever it means to other readers.
func TestParseRefusesOtherTexts(t *testing.T) {
	text, err := whole().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range [][2]string{
		{`"uid":1000`, `"uid":1000,"uid":0`},
		{`"uid":1000`, `"UID":1000`},
		{`"uid":1000`, `"uid":1000,"privileged":true`},
		{`"uid":1000`, `"uid":-1`},
		{`"uid":1000`, `"uid":4294967296`},
		{`"version":1`, `"version":2`},
		{`"dir":"/srv"`, `"dir": "/srv"`},
		{`10.0.0.2/24`, `10.0.0.2/33`},
		{`}]}`, `}]}x`},
		{`}]}`, `}]`},
	} {
		other := bytes.Replace(text, []byte(tc[0]), []byte(tc[1]), 1)
		if bytes.Equal(other, text) {
			t.Fatalf("%s is not in %s", tc[0], text)
		}
		if s, err := Parse(other); !errors.Is(err, ErrSpec) {
			t.Errorf("Parse(%s) = %+v, %v; want ErrSpec", other, s, err)
		}
	}
	if _, err := Parse(make([]byte, maxSize+1)); !errors.Is(err, ErrSpec) {
		t.Errorf("Parse of a long text = %v; want ErrSpec", err)
	}
}

func TestMarshalRefuses(t *testing.T) {
	same := efi.MustParse("11111111-2222-3333-4444-555555555555")
	for name, change := range map[string]func(*Spec){
		"relative program":      func(s *Spec) { s.Path = "app" },
		"unclean program":       func(s *Spec) { s.Path = "/usr/../app" },
		"relative folder":       func(s *Spec) { s.Dir = "" },
		"long folder":           func(s *Spec) { s.Dir = "/" + strings.Repeat("x", 4096) },
		"no arguments":          func(s *Spec) { s.Args = nil },
		"NUL in an argument":    func(s *Spec) { s.Args = []string{"a\x00b"} },
		"no UTF-8":              func(s *Spec) { s.Args = []string{"\xff"} },
		"no variable":           func(s *Spec) { s.Env = []string{"HOME"} },
		"variable without name": func(s *Spec) { s.Env = []string{"=x"} },
		"NUL in a variable":     func(s *Spec) { s.Env = []string{"A=\x00"} },
		"signal 0":              func(s *Spec) { s.StopSignal = 0 },
		"signal 65":             func(s *Spec) { s.StopSignal = 65 },
		"grace":                 func(s *Spec) { s.Grace = -1 },
		"hostname":              func(s *Spec) { s.Hostname = "a b" },
		"empty hostname":        func(s *Spec) { s.Hostname = "" },
		"address and DHCP":      func(s *Spec) { s.Network.DHCP = true },
		"gateway elsewhere":     func(s *Spec) { s.Network.Gateway = netip.MustParseAddr("10.0.1.1") },
		"IPv6 address":          func(s *Spec) { s.Network = Network{Address: netip.MustParsePrefix("fd00::2/64")} },
		"gateway alone":         func(s *Spec) { s.Network = Network{Gateway: netip.MustParseAddr("10.0.0.1")} },
		"four name servers":     func(s *Spec) { s.Network.DNS = make([]netip.Addr, 4) },
		"no name server":        func(s *Spec) { s.Network.DNS = make([]netip.Addr, 1) },
		"secret without GUID":   func(s *Spec) { s.Secrets = []Secret{{File: "a"}} },
		"secret without name":   func(s *Spec) { s.Secrets = []Secret{{GUID: same}} },
		"secret of both kinds":  func(s *Spec) { s.Secrets = []Secret{{GUID: same, File: "a", Env: "A"}} },
		"secret in a folder":    func(s *Spec) { s.Secrets = []Secret{{GUID: same, File: "../a"}} },
		"secret named ..":       func(s *Spec) { s.Secrets = []Secret{{GUID: same, File: ".."}} },
		"secret as another's":   func(s *Spec) { s.Secrets = []Secret{{GUID: same, File: "736869E5-84f0-4973-92ec-06879ce3da0b"}} },
		"secret as 1A":          func(s *Spec) { s.Secrets = []Secret{{GUID: same, Env: "1A"}} },
		"one GUID twice":        func(s *Spec) { s.Secrets = []Secret{{GUID: same, File: "a"}, {GUID: same, Env: "A"}} },
		"one name twice": func(s *Spec) {
			s.Secrets[1].Env, s.Secrets[1].File = "", s.Secrets[0].File
		},
	} {
		s := whole()
		change(&s)
		if text, err := s.Marshal(); !errors.Is(err, ErrSpec) {
			t.Errorf("%s: Marshal = %s, %v; want ErrSpec", name, text, err)
		}
	}
}
