package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/initramfs/release/snp"
	"cocoroot/initramfs/release/snptest"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secret/table"
)

// asked is an owner's folder and a chip on whose host guests run that ask.
type asked struct {
	t      *testing.T
	dir    string
	chip   *snptest.Chip
	digest string
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	r := &asked{t: t, dir: t.TempDir(), digest: strings.Repeat("ab", 48)}
	r.chip = snptest.NewChip("Genoa-B1", snptest.TCB{Bootloader: 10, SNP: 0x20, Microcode: 84})
	put(t, r.path("vcek"), string(r.chip.Vcek.Raw))
	put(t, r.path("key"), passphrase)
	r.ok("owner", "new", "-o", r.path("me"))
	return r
}

func (r *asked) path(name string) string { return filepath.Join(r.dir, name) }

// call runs the tool with the chip's root in AMD's place.
func (r *asked) call(args ...string) (int, string, string) {
	r.t.Helper()
	var stdout bytes.Buffer
	code, stderr := r.callTo(&stdout, args...)
	return code, stdout.String(), stderr
}

func (r *asked) callTo(stdout io.Writer, args ...string) (int, string) {
	r.t.Helper()
	var stderr bytes.Buffer
	a := &app{stdout: stdout, stderr: &stderr, own: ovmf.Own{}, roots: func(_ snp.Generation, vlek bool) (ark, ask *x509.Certificate, err error) {
		if vlek {
			return r.chip.Ark, r.chip.Asvk, nil
		}
		return r.chip.Ark, r.chip.Ask, nil
	}}
	code := a.main(r.t.Context(), args)
	return code, stderr.String()
}

func (r *asked) ok(args ...string) string {
	r.t.Helper()
	code, out, stderr := r.call(args...)
	if code != fault.OK {
		r.t.Fatalf("%q = %d, %s", args, code, stderr)
	}
	return out
}

// verify are the arguments of release verify.
func (r *asked) verify(more ...string) []string {
	return append([]string{"release", "verify", r.path("report"), "--owner", r.path("me.key"), "--challenge", r.path("challenge"),
		"--digest", r.digest, "--vcek", r.path("vcek"), guid + "=" + r.path("key"), "-o", r.path("vm"), "--force"}, more...)
}

// speaker makes a connection what the guest speaks through.
type speaker struct{ net.Conn }

func (c speaker) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Conn.Read(p)
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		err = nil
	} else if err != nil {
		time.Sleep(50 * time.Millisecond)
	}
	return n, err
}

func (c speaker) Write(p []byte) { _, _ = c.Conn.Write(p) }

// switchboard is QEMU's socket: who connects speaks with the guest, one after
// another, and the guest does not notice.
type switchboard struct {
	net.Listener
	host net.Conn // nil while nobody is connected
}

func (s *switchboard) Read(p []byte) (int, error) {
	if s.host == nil {
		s.Listener.(*net.UnixListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
		s.host, _ = s.Accept()
		if s.host == nil {
			return 0, nil
		}
	}
	n, err := speaker{s.host}.Read(p)
	if err != nil {
		s.host = nil
	}
	return n, nil
}

func (s *switchboard) Write(p []byte) {
	if s.host != nil {
		s.host.Write(p)
	}
}

// guest starts one that speaks over the channel, and returns what it gets.
func (r *asked) guest(c release.Channel) <-chan string {
	r.t.Helper()
	public, err := snp.ReadPublic(r.path("me.pub"))
	if err != nil {
		r.t.Fatal(err)
	}
	digest, _ := hex.DecodeString(r.digest)
	out := make(chan string, 1)
	go func() {
		got, err := release.Guest{Owner: public[:], Wait: 30 * time.Second, Attest: func(data [64]byte) ([]byte, []byte, error) {
			report := r.chip.Report()
			report.ReportData, report.Measurement = data[:], digest
			return r.chip.Sign(report), nil, nil
		}}.Get(c)
		if err != nil {
			out <- err.Error()
		} else {
			out <- string(table.Inspect(got.Bytes(), snp.MaxTable).Entries[0].Data)
		}
	}()
	return out
}

// socket starts a guest at a socket.
func (r *asked) socket() (path string, got <-chan string) {
	r.t.Helper()
	path = filepath.Join(r.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	return path, r.guest(&switchboard{Listener: l})
}

// The steps of a release, each by its own call, and what is left of them.
func TestReleaseAttested(t *testing.T) {
	r := newAsked(t)
	channel, got := r.socket()
	r.ok("release", "challenge", "-o", r.path("challenge"))
	r.ok("release", "collect", "--channel", channel, "--challenge", r.path("challenge"), "-o", r.path("report"))
	verified := r.ok(r.verify()...)
	if !strings.Contains(verified, "launch digest "+r.digest) || !strings.Contains(verified, "Genoa") {
		t.Errorf("release verify says %q", verified)
	}
	sent := r.ok("release", "inject", r.path("vm_packet.json"), "--channel", channel)
	if s := <-got; s != passphrase {
		t.Errorf("the guest has %q", s)
	}
	_, expected, _ := strings.Cut(verified, "will confirm it with ")
	if _, confirmed, _ := strings.Cut(sent, "confirms it with "); confirmed != expected || len(expected) != 65 {
		t.Errorf("confirmed with %q; want %q", confirmed, expected)
	}
	if _, err := os.Stat(r.path("challenge")); err == nil {
		t.Error("the challenge is still there")
	}
	if code, _, stderr := r.call(r.verify()...); code != fault.Mismatch || !strings.Contains(stderr, "it was used") {
		t.Errorf("again with the same challenge: %d, %q", code, stderr)
	}
	// Another guest's packet is not sent.
	channel, _ = r.socket()
	r.ok("release", "challenge", "-o", r.path("other"))
	r.ok("release", "collect", "--channel", channel, "--challenge", r.path("other"), "-o", r.path("report2"))
	if code, _, stderr := r.call("release", "inject", r.path("vm_packet.json"), "--channel", channel); code != fault.Secret || !strings.Contains(stderr, "another") {
		t.Errorf("a packet for another guest: %d, %q", code, stderr)
	}
}

// All at once, at the owner's, over a socket and over TCP.
func TestReleaseRunAttested(t *testing.T) {
	r := newAsked(t)
	run := func(channel string, more ...string) []string {
		return append([]string{"release", "run", "--channel", channel, "--owner", r.path("me.key"), "--digest", r.digest,
			"--vcek", r.path("vcek"), guid + "=" + r.path("key"), "--timeout", "20s"}, more...)
	}
	channel, got := r.socket()
	if out := r.ok(run(channel)...); !strings.Contains(out, "has opened its secrets") {
		t.Errorf("release run says %q", out)
	}
	if s := <-got; s != passphrase {
		t.Errorf("the guest has %q", s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	done := make(chan string, 1)
	go func() {
		for {
			if conn, err := net.Dial("tcp", address); err == nil {
				done <- <-r.guest(speaker{conn})
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	r.ok(run("tcp-listen:" + address)...)
	if s := <-done; s != passphrase {
		t.Errorf("over TCP the guest has %q", s)
	}
	// A guest that is refused learns only that, and at once.
	channel, got = r.socket()
	code, out, stderr := r.call(run(channel, "--chip", strings.Repeat("00", 64), "--json")...)
	var v struct {
		Match bool
		Check string
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != fault.Mismatch || v.Match || v.Check != "chip" {
		t.Errorf("refused: %d, %q, %q, %v", code, out, stderr, err)
	}
	if s := <-got; !strings.Contains(s, "does not release") {
		t.Errorf("the refused guest: %q", s)
	}
}

// A guest whose report cannot be told of gets nothing.
func TestRunUntold(t *testing.T) {
	r := newAsked(t)
	channel, got := r.socket()
	code, stderr := r.callTo(full{}, "release", "run", "--channel", channel, "--owner", r.path("me.key"), "--digest", r.digest,
		"--vcek", r.path("vcek"), guid+"="+r.path("key"), "--timeout", "20s")
	if s := <-got; code != fault.Failed || !strings.Contains(s, "does not release") || !strings.Contains(stderr, "no space left") {
		t.Errorf("release run = %d, %q; the guest has %q", code, stderr, s)
	}
}

// What does not fit is refused with its exit code, and releases nothing.
func TestVerifyAttestedRefuses(t *testing.T) {
	r := newAsked(t)
	channel, _ := r.socket()
	r.ok("release", "challenge", "-o", r.path("challenge"))
	r.ok("release", "collect", "--channel", channel, "--challenge", r.path("challenge"), "-o", r.path("report"))
	put(t, r.path("sev"), `{"version": 1, "policy": 7}`)
	put(t, r.path("sevpacket"), `{"version": 1, "header": ""}`)
	put(t, r.path("snppacket"), `{"version": 1, "kind": "sev-snp"}`)
	short := put(t, r.path("short"), "x")
	r.ok("owner", "new", "-o", r.path("stranger"))
	if err := os.Mkdir(r.path("lists"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(r.path("lists"), "Genoa-vcek.crl"), "x")
	report := func(args []string, path string) []string { args[2] = path; return args }
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"Milan named":           {r.verify("--generation", "Milan"), fault.Mismatch, "the processor is of Genoa, and not of Milan"},
		"Turin without a floor": {r.verify("--generation", "Turin"), fault.Usage, "--min-tcb is needed"},
		"Naples":                {r.verify("--generation", "Naples"), fault.Usage, "Naples"},
		"old firmware":          {r.verify("--min-tcb", "microcode=85"), fault.Mismatch, "--min-tcb"},
		"no such firmware":      {r.verify("--min-tcb", "ucode=85"), fault.Usage, "--min-tcb"},
		"SMT":                   {r.verify("--require", "no-smt"), fault.Mismatch, "no-smt"},
		"unknown requirement":   {r.verify("--require", "no-such"), fault.Usage, "no-such"},
		"another owner":         {r.verify("--owner", r.path("stranger.key")), fault.Mismatch, "owner"},
		"no owner":              {r.verify("--owner", short), fault.Failed, "not an owner's key"},
		"a VLEK":                {r.verify("--vcek", "", "--vlek", r.path("vcek")), fault.Mismatch, "VLEK"},
		"two keys":              {r.verify("--vlek", r.path("vcek")), fault.Usage, "--vlek"},
		"no certificate":        {r.verify("--vcek", ""), fault.Failed, "release certs"},
		"host data":             {r.verify("--host-data", strings.Repeat("11", 32)), fault.Mismatch, "host data"},
		"a chip of 8 bytes":     {r.verify("--chip", "0011223344556677"), fault.Usage, "--chip"},
		"short host data":       {r.verify("--host-data", "11"), fault.Usage, "host-data"},
		"a list that is none":   {r.verify("--crl", short), fault.Mismatch, "revocation"},
		"a folder's list":       {r.verify("--certs", r.path("lists")), fault.Mismatch, "revocation"},
		"an ID without a key":   {r.verify("--image-id", strings.Repeat("11", 16)), fault.Usage, "--id-key"},
		"SEV's digest":          {r.verify("--digest", strings.Repeat("ab", 32)), fault.Usage, "96 hex digits"},
		"SEV's option":          {r.verify("--allow-debug"), fault.Usage, "--allow-debug is for SEV and SEV-ES"},
		"SEV's report":          {report(r.verify(), r.path("sev")), fault.Failed, "kind"},
		"no report":             {report(r.verify(), short), fault.Failed, "not a file of this kind"},
		"a pair that is none":   {r.verify("x"), fault.Usage, "GUID=FILE"},
		"SNP's report for SEV": {[]string{"release", "verify", r.path("report"), "--digest", strings.Repeat("ab", 32), "--tik", short, "--tek", short, "-o", r.path("vm"), guid + "=" + short},
			fault.Failed, `"sev-snp", not "sev"`},
		"no platform":           {[]string{"release", "verify", r.path("report"), "--digest", r.digest, "-o", r.path("vm")}, fault.Usage, "--owner"},
		"SEV's packet":          {[]string{"release", "inject", r.path("sevpacket"), "--channel", channel}, fault.Failed, "kind"},
		"SNP's packet for SEV":  {[]string{"release", "inject", r.path("snppacket"), "--qmp", short}, fault.Failed, "kind"},
		"a report as challenge": {[]string{"release", "collect", "--channel", channel, "--challenge", r.path("report"), "-o", r.path("x")}, fault.Failed, "challenge"},
		"no time":               {[]string{"release", "challenge", "-o", r.path("x"), "--expires", "0s"}, fault.Usage, "--expires"},
		"no wait":               {[]string{"release", "inject", r.path("vm_packet.json"), "--channel", channel, "--timeout", "0s"}, fault.Usage, "no time to wait"},
		"certs of nothing":      {[]string{"release", "certs", short, "-o", r.path("certs")}, fault.Failed, "kind"},
	} {
		code, _, stderr := r.call(tc.args...)
		if code != tc.code || !strings.Contains(stderr, tc.says) {
			t.Errorf("%s: %d, %q; want %d, and %q", name, code, stderr, tc.code, tc.says)
		}
		for _, file := range []string{"vm_packet.json", "challenge.used", "x"} {
			if _, err := os.Stat(r.path(file)); err == nil {
				t.Errorf("%s: there is %s", name, file)
			}
		}
	}
	r.ok(r.verify()...) // and it was none of the others' fault
}

// Without the Internet there are no certificates, and it says so.
func TestReleaseCertsOffline(t *testing.T) {
	r := newAsked(t)
	channel, _ := r.socket()
	r.ok("release", "challenge", "-o", r.path("challenge"))
	r.ok("release", "collect", "--channel", channel, "--challenge", r.path("challenge"), "-o", r.path("report"))
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	if code, _, stderr := r.call("release", "certs", r.path("report"), "-o", r.path("certs")); code != fault.Failed || !strings.Contains(stderr, "cannot get the VCEK") {
		t.Errorf("release certs = %d, %q", code, stderr)
	}
}

// A challenge that is 20 hours old is refused.
func TestOldChallenge(t *testing.T) {
	r := newAsked(t)
	channel, _ := r.socket()
	old := snp.NewChallenge(time.Now().Add(-20*time.Hour), time.Hour)
	text, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	put(t, r.path("challenge"), string(text))
	r.ok("release", "collect", "--channel", channel, "--challenge", r.path("challenge"), "-o", r.path("report"))
	if code, _, stderr := r.call(r.verify()...); code != fault.Mismatch || !strings.Contains(stderr, "it was good from") {
		t.Errorf("release verify = %d, %q", code, stderr)
	}
}
