package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"cocoroot/unlock/efi"
	"cocoroot/unlock/program"
)

// Only a line that is the one word asks the program to end, however it arrives and
// whatever else does.
func TestListen(t *testing.T) {
	for _, tc := range []struct {
		parts []string
		want  int
	}{
		{[]string{"stop\n"}, 1},
		{[]string{"st", "op", "\n"}, 1},
		{[]string{"\n\nstop\n"}, 1},
		{[]string{"x\nstop\nstop\n"}, 2},
		{[]string{"stop"}, 0},
		{[]string{"stop \nSTOP\nstopstop\n stop\nstop\r\n"}, 0},
		{[]string{strings.Repeat("x", 1000) + "\nstop\n"}, 1},
		{[]string{strings.Repeat("\x00", 1000)}, 0},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer w.Close()
			for _, p := range tc.parts {
				w.WriteString(p)
			}
		}()
		got := 0
		listen(r, func() { got++ })
		if r.Close(); got != tc.want {
			t.Errorf("%q: stopped %d times; want %d", tc.parts, got, tc.want)
		}
	}
	listen(nil, func() { t.Error("stopped without a line") })
}

// What the host answers is taken as far as it can be true.
func TestFromLease(t *testing.T) {
	ip := func(s string) net.IP { return net.ParseIP(s) }
	for _, tc := range []struct {
		address, mask string
		routers, dns  []net.IP
		want          string // empty: refused
	}{
		{"10.0.2.15", "255.255.255.0", []net.IP{ip("10.0.2.2")}, []net.IP{ip("10.0.2.3")}, "10.0.2.15/24 10.0.2.2 [10.0.2.3]"},
		{"10.0.2.15", "255.255.255.0", nil, nil, "10.0.2.15/24 invalid IP []"},
		{"10.0.2.15", "255.255.255.255", []net.IP{ip("10.0.2.2")}, nil, "10.0.2.15/32 invalid IP []"},
		{"10.0.2.15", "255.255.255.0", []net.IP{ip("10.9.9.9"), ip("10.0.2.1"), ip("10.0.2.2")}, []net.IP{ip("1.1.1.1"), ip("1.1.1.2"), ip("1.1.1.3"), ip("1.1.1.4")},
			"10.0.2.15/24 10.0.2.1 [1.1.1.1 1.1.1.2 1.1.1.3]"},
		{"127.0.0.1", "255.0.0.0", nil, nil, ""},
		{"0.0.0.0", "255.0.0.0", nil, nil, ""},
		{"224.0.0.1", "255.0.0.0", nil, nil, ""},
		{"255.255.255.255", "255.0.0.0", nil, nil, ""},
		{"10.0.2.15", "0.0.0.0", nil, nil, ""},
		{"10.0.2.15", "255.0.255.0", nil, nil, ""},
	} {
		ack, err := dhcpv4.New(dhcpv4.WithYourIP(ip(tc.address)), dhcpv4.WithNetmask(net.IPMask(ip(tc.mask).To4())), dhcpv4.WithRouter(tc.routers...), dhcpv4.WithDNS(tc.dns...))
		if err != nil {
			t.Fatal(err)
		}
		n, err := fromLease(ack)
		got := ""
		if err == nil {
			got = strings.Join([]string{n.Address.String(), n.Gateway.String()}, " ") + " ["
			for i, d := range n.DNS {
				got += strings.Repeat(" ", min(i, 1)) + d.String()
			}
			got += "]"
		}
		if got != tc.want {
			t.Errorf("%s %s = %q, %v; want %q", tc.address, tc.mask, got, err, tc.want)
		}
	}
	if n, err := fromLease(&dhcpv4.DHCPv4{}); err == nil {
		t.Errorf("an empty answer = %+v; want an error", n)
	}
}

// A program that may write to /etc, and puts a link there whenever it is gone, does not
// get the first process to write elsewhere.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	victim, name := filepath.Join(dir, "victim"), filepath.Join(dir, "etc/resolv.conf")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replace(name, "first"); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Symlink(victim, name)
			}
		}
	}()
	for range 2000 {
		_ = replace(name, "later")
	}
	close(stop)
	<-stopped
	if b, err := os.ReadFile(victim); err != nil || len(b) > 0 {
		t.Errorf("through a link was written %q, %v", b, err)
	}
	if err := replace(name, "last"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "last" {
		t.Errorf("the file has %q, %v", b, err)
	}
}

// What a DHCP server says cannot pass for a line of init's, or move a cursor.
func TestPrintable(t *testing.T) {
	got := printable("no \x1b[2Jaddress\r\ncocoroot: FATAL VERITY\u202e\u009b")
	if want := "no [2Jaddresscocoroot: FATAL VERITY"; got != want {
		t.Errorf("printable = %q; want %q", got, want)
	}
}

// The owner's secret is what the program gets, whatever the image has under its name.
func TestGiveVariable(t *testing.T) {
	spec := program.Spec{Env: []string{"A=b", "TOKEN=the image's", "TOKENS=c", "TOKEN=again"}}
	if err := give(&spec, program.Secret{Env: "TOKEN"}, efi.GUID{1}, []byte("the owner's")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(spec.Env, " "); got != "A=b TOKENS=c TOKEN=the owner's" {
		t.Errorf("Env = %q", got)
	}
	if err := give(&spec, program.Secret{Env: "TOKEN"}, efi.GUID{1}, []byte("a\x00B=c")); err == nil {
		t.Error("a secret with a NUL becomes a variable")
	}
}
