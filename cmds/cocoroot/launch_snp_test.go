package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/oracle"
)

// asks are the words of a guest's line by which it asks for its secrets.
func asks(channel string) []string {
	return []string{"cocoroot.owner=ed25519:" + strings.Repeat("5a", 32), "cocoroot.channel=" + channel}
}

// identity are the options for host data and an ID block with an author key.
func (r *guestRig) identity() []string {
	auth := make([]byte, 4096)
	auth[0x880] = 2
	file := func(name string, b []byte) string {
		return put(r.t, filepath.Join(r.dir, name), base64.StdEncoding.EncodeToString(b)+"\n")
	}
	return []string{"--host-data", strings.Repeat("1f", 32), "--id-block", file("block", make([]byte, 96)), "--id-auth", file("auth", auth)}
}

// snp are the arguments of a launch whose command is printed.
func (r *guestRig) snp(more ...string) []string {
	return slices.Concat(r.hardware("sev-snp", "--dry-run", "--qemu-version", "10.0"), more)
}

// The QEMU command and the script have the port at which the guest asks.
func TestLaunchChannel(t *testing.T) {
	for channel, want := range map[string]string{
		"serial:ttyS2": "isa-serial,chardev=owner,index=2", "serial:ttyS1": "isa-serial,chardev=owner,index=1",
		"virtio:org.cocoroot.release": "virtserialport,chardev=owner,name=org.cocoroot.release",
	} {
		r := newGuestRig(t, asks(channel)...)
		socket := filepath.Join(r.dir, "owner")
		more := append(r.identity(), "--channel", socket)
		code, out, stderr := call(t, r.snp(more...)...)
		if code != fault.OK {
			t.Fatalf("%s = %d, %q", channel, code, stderr)
		}
		got := words(t, out)
		script := words(t, r.template("qemu-sev-snp", r.with("sev-snp", append(more, "--manifest", r.manifest, "--qmp-socket", filepath.Join(r.dir, "qmp"), "--qemu-version", "10.0")...)...))
		for _, words := range [][]string{got, script} {
			if !slices.Contains(words, want) || !slices.Contains(words, "socket,id=owner,server=on,wait=off,path="+strings.ReplaceAll(socket, ",", ",,")) {
				t.Errorf("%s: the command is %q; want %s and the socket", channel, words, want)
			}
			text, _ := hex.DecodeString(strings.Repeat("1f", 32))
			object := words[slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "sev-snp-guest,") })]
			if !strings.Contains(object, ",host-data="+base64.StdEncoding.EncodeToString(text)+",id-block=AAAA") || !strings.HasSuffix(object, ",author-key-enabled=on") {
				t.Errorf("%s: the object is %.200q", channel, object)
			}
		}
	}
}

// What does not fit the way in which the guest asks is refused, with the next step.
func TestLaunchChannelRefused(t *testing.T) {
	serial, tcp, injected := newGuestRig(t, asks("serial:ttyS2")...), newGuestRig(t, asks("tcp:10.0.2.2:443")...), newGuestRig(t)
	key := put(t, filepath.Join(serial.dir, "key"), secretKey)
	id := serial.identity()
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no channel":                {serial.snp(), fault.Usage, "hint: the guest asks for its secrets at serial:ttyS2, as its command line says: --channel "},
		"no channel, template":      {serial.with("sev-snp", "template", "libvirt-sev-snp", "--manifest", serial.manifest), fault.Usage, "hint: the guest asks for its secrets at serial:ttyS2"},
		"relative, template":        {serial.with("sev-snp", "template", "libvirt-sev-snp", "--manifest", serial.manifest, "--channel", "owner"), fault.Usage, "absolute"},
		"channel for TCP":           {tcp.snp("--channel", "/run/vm/owner"), fault.Usage, "serial or virtio"},
		"channel for injected ones": {injected.snp("--channel", "/run/vm/owner"), fault.Usage, "serial or virtio"},
		"the console":               {newGuestRig(t, asks("serial:ttyS0")...).snp("--channel", "/run/vm/owner"), fault.Usage, "console"},
		"another mode":              {serial.hardware("sev-es", "--dry-run", "--channel", "/run/vm/owner"), fault.Usage, "sev-snp"},
		"simulated":                 {slices.Concat([]string{"launch", "--simulate", "--cmdline-file", serial.cmdline, "--channel", "x"}, serial.shared[:len(serial.shared)-2]), fault.Usage, "--channel is for --mode"},
		"host data of ES":           {injected.hardware("sev-es", "--dry-run", "--host-data", strings.Repeat("1f", 32)), fault.Usage, "sev-snp"},
		"short host data":           {serial.snp("--host-data", "1f"), fault.Usage, "64 hex digits"},
		"ID block only":             {serial.snp("--id-block", id[3], "--channel", "/run/vm/owner"), fault.Usage, "belong together"},
		"key as ID block":           {serial.snp("--id-block", key, "--id-auth", id[5], "--channel", "/run/vm/owner"), fault.Failed, "96 bytes"},
		"key as authentication":     {serial.snp("--id-block", id[3], "--id-auth", key, "--channel", "/run/vm/owner"), fault.Failed, "4096 bytes"},
	} {
		code, out, stderr := call(t, tc.args...)
		if code != tc.code || out != "" || strings.Count(stderr, "cocoroot: error: ") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s = %d, %q, %q; want %d, one error and %q", name, code, out, stderr, tc.code, tc.want)
		}
		if strings.Contains(stderr, secretKey[:16]) {
			t.Errorf("%s prints the key: %q", name, stderr)
		}
	}
	for channel, want := range map[string]string{"tcp:10.0.2.2:443": "network card", "vsock:2:443": "vhost-vsock-pci"} {
		code, _, stderr := call(t, newGuestRig(t, asks(channel)...).snp()...)
		if code != fault.OK || !strings.Contains(stderr, want) {
			t.Errorf("%s = %d, %q; want %q said", channel, code, stderr, want)
		}
	}
}

// libvirt's descriptions have the port too, and are what its schema allows.
func TestTemplateLibvirtChannel(t *testing.T) {
	schema := filepath.Join(oracle.Fixture(t, "libvirt-trixie"), "domain.rng")
	for _, tc := range []struct{ channel, element, port, name string }{
		{"serial:ttyS2", "serial", "2", ""}, {"virtio:org.cocoroot.release", "channel", "", "org.cocoroot.release"},
	} {
		r := newGuestRig(t, asks(tc.channel)...)
		socket := filepath.Join(r.dir, "owner")
		text := r.template("libvirt-sev-snp", r.with("sev-snp", append(r.identity(), "--manifest", r.manifest, "--channel", socket)...)...)
		oracle.Run(t, oracle.Tool(t, "xmllint"), "--noout", "--relaxng", schema, put(t, filepath.Join(t.TempDir(), "domain.xml"), text))
		type port struct {
			Type   string `xml:"type,attr"`
			Source struct {
				Mode string `xml:"mode,attr"`
				Path string `xml:"path,attr"`
			} `xml:"source"`
			Target struct {
				Port string `xml:"port,attr"`
				Name string `xml:"name,attr"`
			} `xml:"target"`
		}
		var d struct {
			Serials  []port `xml:"devices>serial"`
			Channels []port `xml:"devices>channel"`
			Security struct {
				AuthorKey string `xml:"authorKey,attr"`
				IDBlock   string `xml:"idBlock"`
				IDAuth    string `xml:"idAuth"`
				HostData  string `xml:"hostData"`
			} `xml:"launchSecurity"`
		}
		if err := xml.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		ports := slices.Concat(d.Serials[1:], d.Channels)
		if len(d.Serials) > 1 != (tc.element == "serial") || len(ports) != 1 || ports[0].Type != "unix" || ports[0].Source.Mode != "bind" ||
			ports[0].Source.Path != socket || ports[0].Target.Port != tc.port || ports[0].Target.Name != tc.name {
			t.Errorf("%s: the ports are %+v, %+v", tc.channel, d.Serials, d.Channels)
		}
		if s := d.Security; s.AuthorKey != "yes" || len(s.IDBlock) != 128 || len(s.IDAuth) != 5464 || !strings.HasPrefix(s.HostData, "Hx8f") {
			t.Errorf("%s: launchSecurity is %+v", tc.channel, s)
		}
	}
	tcp := newGuestRig(t, asks("tcp:10.0.2.2:443")...)
	out := filepath.Join(tcp.dir, "domain.xml")
	code, _, stderr := call(t, tcp.with("sev-snp", "template", "libvirt-sev-snp", "--manifest", tcp.manifest, "-o", out)...)
	if text, err := os.ReadFile(out); code != fault.OK || err != nil || !strings.Contains(string(text), "over\n     tcp") {
		t.Errorf("tcp = %d, %q, %v\n%s", code, stderr, err, text)
	}
}
