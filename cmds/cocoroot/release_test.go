package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/release"
)

// rig is an owner's folder, a platform, and a guest that was launched with the
// session that the owner made.
type rig struct {
	t        *testing.T
	dir      string
	platform *platform
	guest    *pspGuest
	digest   string
}

const passphrase = "MY-LUKS-PASSPHRASE"

func newRig(t *testing.T, policy string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), platform: newPlatform(t)}
	put(t, r.path("chain"), string(r.platform.chain()))
	put(t, r.path("key"), passphrase)
	code, out, stderr := call(t, "secret", "session", r.path("chain"), "--amd-root", r.platform.Root, "--policy", policy, "-o", r.path("vm"))
	if code != fault.OK || !strings.Contains(out, "genuine") {
		t.Fatalf("secret session = %d, %q, %q", code, out, stderr)
	}
	digest := [32]byte{1, 2, 3}
	r.digest = hex.EncodeToString(digest[:])
	n := uint32(policy[len(policy)-1] - '0')
	r.guest = r.platform.start(t, r.base64("vm_session.b64"), r.base64("vm_godh.b64"), n, digest)
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) read(name string) []byte {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) base64(name string) []byte {
	r.t.Helper()
	b, err := base64.StdEncoding.DecodeString(string(r.read(name)))
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// collect writes the report of a QEMU.
func (r *rig) collect(q *fakeQEMU) {
	r.t.Helper()
	if code, _, stderr := call(r.t, "release", "collect", "--qmp", q.Serve(r.t), "-o", r.path("report"), "--force"); code != fault.OK {
		r.t.Fatalf("release collect = %d, %q", code, stderr)
	}
}

// owner are the arguments of what needs keys and secret.
func (r *rig) owner(verb ...string) []string {
	return append(append([]string{"release"}, verb...), "--digest", r.digest,
		"--tik", r.path("vm_tik.bin"), "--tek", r.path("vm_tek.bin"), guid+"="+r.path("key"))
}

// verify runs verify with the output NAME "p".
func (r *rig) verify(more ...string) (int, string, string) {
	return call(r.t, append(r.owner("verify", r.path("report"), "-o", r.path("p"), "--force"), more...)...)
}

// nothing fails the test when a packet was written.
func (r *rig) nothing(name string) {
	r.t.Helper()
	if got := names(r.t, r.dir); strings.Contains(got, "p_") || strings.Contains(got, "tmp") {
		r.t.Errorf("%s: files %q; want no packet and no temporary file", name, got)
	}
}

// TestRelease goes from the platform's certificates to the secret in the guest.
func TestRelease(t *testing.T) {
	r := newRig(t, "0x7")
	for _, name := range []string{"vm_tik.bin", "vm_tek.bin"} {
		if fi, err := os.Stat(r.path(name)); err != nil || fi.Mode() != 0o600 || fi.Size() != 16 {
			t.Errorf("%s: %v, %v; want mode 0600 and 16 bytes", name, fi, err)
		}
	}
	q := &fakeQEMU{Guest: r.guest, Type: "sev", Noise: `{"event": "NICE", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n"}
	r.collect(q)
	code, out, stderr := r.verify("--min-api", "1.55", "--min-build", "21", "--raw")
	if code != fault.OK || !strings.Contains(out, "measured: launch digest "+r.digest) || !strings.Contains(out, "this one launch") {
		t.Fatalf("release verify = %d, %q, %q", code, out, stderr)
	}
	if !bytes.Equal(r.base64("p_header.b64"), r.read("p_header.bin")) || !bytes.Equal(r.base64("p_secret.b64"), r.read("p_secret.bin")) {
		t.Error("the packet in base64 is not the raw one")
	}
	socket := q.Serve(t)
	code, out, stderr = call(t, "release", "inject", r.path("p_packet.json"), "--qmp", socket)
	if code != fault.OK || !strings.Contains(out, "still stopped") || q.Running() {
		t.Fatalf("release inject = %d, %q, %q; running %v", code, out, stderr, q.Running())
	}
	if !bytes.Contains(r.guest.Table, []byte(passphrase)) || len(r.guest.Table) != 64 {
		t.Errorf("the guest has %q; want the table", r.guest.Table)
	}
	if code, out, stderr := call(t, "release", "inject", r.path("p_packet.json"), "--qmp", socket, "--cont"); code != fault.OK || !q.Running() {
		t.Errorf("release inject --cont = %d, %q, %q; running %v", code, out, stderr, q.Running())
	}
	for _, f := range []string{"report", "p_packet.json", "p_secret.bin", "vm_session.b64"} {
		if b := r.read(f); bytes.Contains(b, []byte(passphrase)) || bytes.Contains(b, r.read("vm_tik.bin")) {
			t.Errorf("a secret is in %s", f)
		}
	}
	if code, _, stderr := call(t, "release", "inject", r.path("p_packet.json"), "--qmp", socket); code != fault.Failed || !strings.Contains(stderr, "started already") {
		t.Errorf("inject into a running guest = %d, %q", code, stderr)
	}
}

// What names the launch is printed, or nothing is released.
func TestVerdictIsTold(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest, Type: "sev"})
	var stderr bytes.Buffer
	a := &app{stdout: full{}, stderr: &stderr}
	if code := a.main(t.Context(), r.owner("verify", r.path("report"), "-o", r.path("p"))); code != fault.Failed || strings.Count(stderr.String(), "no space left") != 1 {
		t.Errorf("release verify = %d, %q", code, stderr.String())
	}
	r.nothing("a verdict that cannot be printed")
}

func TestReleaseRun(t *testing.T) {
	r := newRig(t, "0x7")
	q := &fakeQEMU{Guest: r.guest}
	socket := q.Serve(t)
	code, out, stderr := call(t, r.owner("run", "--qmp", socket, "--cont")...)
	if code != fault.OK || !q.Running() || !bytes.Contains(r.guest.Table, []byte(passphrase)) {
		t.Errorf("release run = %d, %q, %q", code, out, stderr)
	}
	r = newRig(t, "0x7")
	r.guest.Digest[0]++
	q = &fakeQEMU{Guest: r.guest}
	code, _, stderr = call(t, r.owner("run", "--qmp", q.Serve(t), "--cont")...)
	if code != fault.Mismatch || q.Running() || strings.Contains(q.Commands(), "inject") {
		t.Errorf("release run of another guest = %d, %q; commands %s", code, stderr, q.Commands())
	}
}

// A report that does not match gives exit code 3 and no packet.
func TestMismatch(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*pspGuest)
		report func(string) string
		args   []string
		says   string
	}{
		"digest":         {change: func(g *pspGuest) { g.Digest[0]++ }, says: "kernel-hashes"},
		"policy lie":     {report: replace(`"policy": 7`, `"policy": 15`), says: "none of the expected"},
		"version lie":    {report: replace(`"api_minor": 55`, `"api_minor": 56`), says: "none of the expected"},
		"build lie":      {report: replace(`"build": 21`, `"build": 22`), says: "none of the expected"},
		"too old":        {args: []string{"--min-api", "1.56"}, says: "not at least 1.56"},
		"too old by one": {args: []string{"--min-api", "2.0"}, says: "not at least 2.0"},
		"too old build":  {args: []string{"--min-build", "22"}, says: "not at least build 22"},
		"in this order":  {args: []string{"--min-build", "22", "--min-api", "1.0"}, says: "not at least build 22"},
	} {
		r := newRig(t, "0x7")
		if tc.change != nil {
			tc.change(r.guest)
		}
		r.collect(&fakeQEMU{Guest: r.guest})
		if tc.report != nil {
			before := string(r.read("report"))
			if put(t, r.path("report"), tc.report(before)); before == string(r.read("report")) {
				t.Fatalf("%s: the report is unchanged", name)
			}
		}
		code, out, stderr := r.verify(tc.args...)
		if code != fault.Mismatch || !strings.Contains(out, tc.says) || !strings.Contains(out, "expected: launch digest "+r.digest) ||
			!strings.Contains(out, "reported: firmware 1.") || !strings.Contains(stderr, "not released") {
			t.Errorf("%s: verify = %d, %q, %q; want %d, %q", name, code, out, stderr, fault.Mismatch, tc.says)
		}
		r.nothing(name)
	}
}

func replace(old, new string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, new, 1) }
}

// Each bit of the policy has its own option, and no option does for another.
func TestPolicyDemands(t *testing.T) {
	options := map[string]string{"0x6": "--allow-debug", "0x5": "--allow-key-sharing", "0x3": "--allow-no-es"}
	for policy := range options {
		r := newRig(t, policy)
		r.collect(&fakeQEMU{Guest: r.guest})
		for p, option := range options {
			want := fault.Mismatch
			if p == policy {
				want = fault.OK
			}
			if code, out, _ := r.verify(option); code != want {
				t.Errorf("policy %s with %s: verify = %d, %q; want %d", policy, option, code, out, want)
			}
			if want != fault.OK {
				continue
			}
			for _, f := range []string{"p_packet.json", "p_header.b64", "p_secret.b64"} {
				os.Remove(r.path(f))
			}
		}
		if code, _, _ := r.verify(); code != fault.Mismatch {
			t.Errorf("policy %s: verify = %d; want %d", policy, code, fault.Mismatch)
		}
		r.nothing(policy)
	}
}

func TestVerifyJSON(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest})
	other := strings.Repeat("00", 32)
	_, out, _ := r.verify("--json", "--digest", other)
	var v release.Verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil || !v.Match || v.Digest != r.digest || len(v.Expected) != 2 {
		t.Errorf("verify --json = %s, %v", out, err)
	}
	r.digest = other
	code, out, _ := r.verify("--json")
	if v = (release.Verdict{}); json.Unmarshal([]byte(out), &v) != nil || v.Match || v.Digest != "" || len(v.Causes) == 0 || code != fault.Mismatch {
		t.Errorf("verify --json of a mismatch = %d, %s", code, out)
	}
}

// A packet for one launch is refused by another one: by the tool, which knows,
// and by the platform, when the host lies.
func TestReplay(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest})
	if code, _, stderr := r.verify(); code != fault.OK {
		t.Fatal(stderr)
	}
	again := r.guest.Relaunch()
	code, _, stderr := call(t, "release", "inject", r.path("p_packet.json"), "--qmp", (&fakeQEMU{Guest: again}).Serve(t))
	if code != fault.Secret || !strings.Contains(stderr, "another launch") || again.Table != nil {
		t.Errorf("inject into another launch = %d, %q", code, stderr)
	}
	old := base64.StdEncoding.EncodeToString(r.guest.Measure())
	liar := &fakeQEMU{Guest: again, Answer: map[string]func(uint64) string{
		"query-sev-launch-measure": returning(`{"data": "` + old + `"}`)}}
	code, _, stderr = call(t, "release", "inject", r.path("p_packet.json"), "--qmp", liar.Serve(t))
	if code != fault.Secret || !strings.Contains(stderr, "fw_error=11") || again.Table != nil {
		t.Errorf("inject into another launch, whose host lies = %d, %q", code, stderr)
	}
	// An old session's report does not match the new session's key.
	other := newRig(t, "0x7")
	put(t, r.path("vm_tik.bin"), string(other.read("vm_tik.bin")))
	if code, out, _ := r.verify(); code != fault.Mismatch || !strings.Contains(out, "another launch or session") {
		t.Errorf("verify with another session's key = %d, %q", code, out)
	}
}

// Bad input gives one error, the documented exit code, and no file.
func TestReleaseBadInput(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest})
	short := put(t, r.path("short"), "15 bytes of key")
	junk := put(t, r.path("junk"), strings.Repeat("j", 20000))
	big := put(t, r.path("big"), strings.Repeat("b", 3100))
	table := put(t, r.path("table"), strings.Repeat("\x00", 64))
	keys := []string{"--tik", r.path("vm_tik.bin"), "--tek", r.path("vm_tek.bin")}
	verify := func(more ...string) []string {
		return append([]string{"release", "verify", "-o", r.path("p"), "--digest", r.digest}, more...)
	}
	secret := guid + "=" + r.path("key")
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"no verb":             {[]string{"release"}, fault.Usage},
		"no report":           {verify(keys...), fault.Usage},
		"no secret":           {verify(append(keys, r.path("report"))...), fault.Usage},
		"secret and table":    {verify(append(keys, r.path("report"), secret, "--table", table)...), fault.Usage},
		"no digest":           {append([]string{"release", "verify", "-o", r.path("p"), r.path("report"), secret}, keys...), fault.Usage},
		"digest of SNP":       {verify(append(keys, r.path("report"), secret, "--digest", strings.Repeat("0", 96))...), fault.Usage},
		"short digest":        {verify(append(keys, r.path("report"), secret, "--digest", "00")...), fault.Usage},
		"bad version":         {verify(append(keys, r.path("report"), secret, "--min-api", "1")...), fault.Usage},
		"version too large":   {verify(append(keys, r.path("report"), secret, "--min-api", "1.256")...), fault.Usage},
		"short TIK":           {verify("--tik", short, "--tek", r.path("vm_tek.bin"), r.path("report"), secret), fault.Failed},
		"short TEK":           {verify("--tik", r.path("vm_tik.bin"), "--tek", short, r.path("report"), secret), fault.Failed},
		"long TEK":            {verify("--tik", r.path("vm_tik.bin"), "--tek", junk, r.path("report"), secret), fault.Failed},
		"absent TIK":          {verify("--tik", r.path("no"), "--tek", r.path("vm_tek.bin"), r.path("report"), secret), fault.Failed},
		"absent report":       {verify(append(keys, r.path("no"), secret)...), fault.Failed},
		"junk report":         {verify(append(keys, junk, secret)...), fault.Failed},
		"half a report":       {verify(append(keys, put(t, r.path("half"), string(r.read("report")[:50])), secret)...), fault.Failed},
		"secret too long":     {verify(append(keys, r.path("report"), guid+"="+big)...), fault.Failed},
		"corrupt table":       {verify(append(keys, r.path("report"), "--table", table)...), fault.Failed},
		"absent socket":       {[]string{"release", "collect", "--qmp", r.path("no"), "-o", r.path("p")}, fault.Failed},
		"file as socket":      {[]string{"release", "collect", "--qmp", junk, "-o", r.path("p")}, fault.Failed},
		"collect, no output":  {[]string{"release", "collect", "--qmp", junk}, fault.Usage},
		"collect, argument":   {[]string{"release", "collect", "x", "--qmp", junk, "-o", r.path("p")}, fault.Usage},
		"no time":             {[]string{"release", "collect", "--qmp", junk, "-o", r.path("p"), "--timeout", "0s"}, fault.Usage},
		"inject nothing":      {[]string{"release", "inject", "--qmp", junk}, fault.Usage},
		"inject junk":         {[]string{"release", "inject", junk, "--qmp", junk}, fault.Failed},
		"inject a report":     {[]string{"release", "inject", r.path("report"), "--qmp", junk}, fault.Failed},
		"packet, measurement": {append([]string{"secret", "packet", "--measurement", "AA==", "-o", r.path("p"), secret}, keys...), fault.Usage},
		"packet, no keys":     {[]string{"secret", "packet", "--measurement", "AA==", "-o", r.path("p"), secret}, fault.Usage},
		"session of nothing":  {[]string{"secret", "session", "-o", r.path("p")}, fault.Usage},
		"session, bad policy": {[]string{"secret", "session", r.path("chain"), "-o", r.path("p"), "--policy", "x"}, fault.Usage},
		"session, bad root":   {[]string{"secret", "session", r.path("chain"), "-o", r.path("p"), "--amd-root", "x"}, fault.Usage},
		"session, not AMD's":  {[]string{"secret", "session", r.path("chain"), "-o", r.path("p")}, fault.Failed},
		"session, junk":       {[]string{"secret", "session", junk, "-o", r.path("p")}, fault.Failed},
		"session, half":       {[]string{"secret", "session", put(t, r.path("c"), string(r.read("chain")[:3000])), "-o", r.path("p")}, fault.Failed},
	} {
		before := names(t, r.dir)
		code, _, stderr := call(t, tc.args...)
		if code != tc.code || strings.Count(stderr, "error: ") != 1 {
			t.Errorf("%s: %d, %q; want %d and one error", name, code, stderr, tc.code)
		}
		if strings.Contains(stderr, passphrase) {
			t.Errorf("%s: the secret is in the error", name)
		}
		if after := names(t, r.dir); after != before {
			t.Errorf("%s: files %q; want %q", name, after, before)
		}
	}
}

// Whoever interrupts the start afterwards is told where the secret is.
func TestInterruptedContinue(t *testing.T) {
	r := newRig(t, "0x7")
	ctx, cancel := context.WithCancel(t.Context())
	q := &fakeQEMU{Guest: r.guest, Answer: map[string]func(uint64) string{"cont": func(uint64) string { cancel(); return "" }}}
	var stdout, stderr bytes.Buffer
	code := (&app{stdout: &stdout, stderr: &stderr}).main(ctx, r.owner("run", "--qmp", q.Serve(t), "--cont"))
	if code != fault.Failed || !strings.Contains(stderr.String(), "the secret is in the guest") || r.guest.Table == nil {
		t.Errorf("interrupted cont = %d, %q", code, stderr.String())
	}
}

func TestSharedKeyIsWarnedOf(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest})
	if _, _, stderr := r.verify(); strings.Contains(stderr, "warning") {
		t.Errorf("verify warns of keys with mode 0600: %q", stderr)
	}
	if err := os.Chmod(r.path("vm_tek.bin"), 0o640); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := r.verify("--force"); code != fault.OK || strings.Count(stderr, "others may use "+r.path("vm_tek.bin")) != 1 {
		t.Errorf("verify with a TEK of mode 0640 = %d, %q; want one warning", code, stderr)
	}
}

// Whoever interrupts an injection is told that it may have happened.
func TestInterruptedInject(t *testing.T) {
	r := newRig(t, "0x7")
	r.collect(&fakeQEMU{Guest: r.guest})
	if code, _, stderr := r.verify(); code != fault.OK {
		t.Fatal(stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	q := &fakeQEMU{Guest: r.guest, Answer: map[string]func(uint64) string{
		"sev-inject-launch-secret": func(uint64) string { cancel(); return "" }}}
	var stdout, stderr bytes.Buffer
	code := (&app{stdout: &stdout, stderr: &stderr}).main(ctx, []string{"release", "inject", r.path("p_packet.json"), "--qmp", q.Serve(t), "--cont"})
	if code != fault.Failed || !strings.Contains(stderr.String(), "not known whether the secret arrived") || q.Running() {
		t.Errorf("interrupted inject = %d, %q", code, stderr.String())
	}
}

// The packet verb takes the measurement without checking it, and says so.
func TestSecretPacket(t *testing.T) {
	r := newRig(t, "0x7")
	m := base64.StdEncoding.EncodeToString(r.guest.Measure())
	table := r.path("table")
	if code, _, stderr := call(t, "secret", "build", guid+"="+r.path("key"), "-o", table); code != fault.OK {
		t.Fatal(stderr)
	}
	code, out, stderr := call(t, "secret", "packet", "--table", table, "--tik", r.path("vm_tik.bin"), "--tek", r.path("vm_tek.bin"), "--measurement", m, "-o", r.path("p"))
	if code != fault.OK || !strings.Contains(stderr, "was not checked") {
		t.Fatalf("secret packet = %d, %q, %q", code, out, stderr)
	}
	if s := r.guest.LaunchSecret(r.base64("p_header.b64"), r.base64("p_secret.b64")); s != success || !bytes.Equal(r.guest.Table, r.read("table")) {
		t.Errorf("LAUNCH_SECRET = %#x, %q", s, r.guest.Table)
	}
}
