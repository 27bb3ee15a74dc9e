package main_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"

	"cocoroot/initramfs/files"
	"cocoroot/initramfs/oracle"
	"cocoroot/initramfs/release/snp"
	"cocoroot/initramfs/release/snptest"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secret/table"
)

// released is a guest, the FAKE processor under it, and its owner, who works with
// what the owner's tool works with.
type released struct {
	*guest
	chip   *snptest.Chip
	psp    *snptest.PSP
	owner  *snp.Owner
	expect snp.Expect
	table  []byte
	// carrier is where the host has the other end of the guest's channel.
	carrier string
}

func newReleased(t *testing.T) *released {
	t.Helper()
	chip := snptest.NewChip("Genoa-B1", snptest.TCB{Bootloader: 10, SNP: 0x20, Microcode: 84})
	generation, err := snp.FindGeneration("Genoa")
	if err != nil {
		t.Fatal(err)
	}
	owner, err := snp.NewOwner()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { owner.Close() })
	s := standardImage(t)
	r := &released{guest: s.boots(t), chip: chip, psp: &snptest.PSP{Chip: chip}, owner: owner,
		table: tableBytes(t, []table.Entry{entry(t, policy.DefaultKey, s.key)})}
	r.entries = nil
	r.initrd = snptest.Archive(t, r.initrd, filepath.Join(oracle.Fixture(t, "faketsm"), "fake_tsm.ko"))
	r.cmdline += " cocoroot.owner=" + policy.Owner(owner.Public).String()
	dir, err := os.MkdirTemp("", "owner") // short enough for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r.carrier = filepath.Join(dir, "channel")
	r.extra = append(r.psp.Serve(t), "-chardev", "socket,id=owner,server=on,wait=off,path="+r.carrier, "-device", "isa-serial,index=2,chardev=owner")
	r.expect = snp.Expect{
		Owner: owner.Public, Challenge: snp.NewChallenge(time.Now(), time.Hour), Generation: generation,
		Digests: []snp.Digest{r.digest(t)}, MinTCB: generation.Floor,
		Roots: func(_ snp.Generation, vlek bool) (ark, ask *x509.Certificate, err error) {
			if vlek {
				return chip.Ark, chip.Asvk, nil
			}
			return chip.Ark, chip.Ask, nil
		},
	}
	r.psp.Edit = func(report *sevsnp.Report) { report.Measurement = r.expect.Digests[0][:] }
	return r
}

// digest is what the tool says that SEV-SNP measures of the guest.
func (r *released) digest(t *testing.T) snp.Digest {
	t.Helper()
	out := oracle.Run(t, oracle.Artifact(t, "cocoroot"), "measure", "--mode", "sev-snp", "--firmware", r.firmware, "--kernel", r.kernel,
		"--initrd", r.initrd, "--cmdline", r.cmdline, "--vcpus", "1", "--vcpu-type", "EPYC-Genoa")
	b, err := hex.DecodeString(strings.Fields(out)[0])
	if err != nil || len(b) != len(snp.Digest{}) {
		t.Fatalf("cocoroot measure prints %q", out)
	}
	return snp.Digest(b)
}

// release does what the four verbs do, by the files that go between owner and host.
// It returns the owner's refusal.
func (r *released) release(ctx context.Context, t *testing.T, use func() error) error {
	carrier := r.connect(ctx, t)
	defer carrier.Close()
	request, err := carrier.Collect(ctx, r.expect.Challenge.Bytes)
	if err != nil {
		return err
	}
	file, err := request.Encode()
	if err != nil {
		return err
	}
	if request, err = snp.ParseReport(file); err != nil {
		return err
	}
	e := r.expect
	if e.Now.IsZero() {
		e.Now = time.Now()
	}
	evidence := snp.Evidence{Key: r.chip.Vcek.Raw}
	if e.VLEK {
		evidence.Key = r.chip.Vlek.Raw
	}
	if _, err = snp.Verify(e, request, evidence); err == nil {
		err = use()
	}
	if err != nil {
		carrier.Refuse(ctx)
		return err
	}
	packet, confirm, err := r.owner.Seal(request, r.table)
	if err != nil {
		return err
	}
	carrier.Close()
	if file, err = packet.Encode(); err != nil {
		return err
	}
	if packet, err = snp.ParsePacket(file); err != nil {
		return err
	}
	again := r.connect(ctx, t)
	defer again.Close()
	got, err := again.Inject(ctx, packet)
	if err == nil && !bytes.Equal(got, confirm[:]) {
		err = errors.New("the confirmation is another one")
	}
	return err
}

// connect waits for QEMU's socket.
func (r *released) connect(ctx context.Context, t *testing.T) *snp.Carrier {
	for ctx.Err() == nil {
		if conn, err := net.Dial("unix", r.carrier); err == nil {
			conn.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	c, err := snp.NewCarrier(r.carrier)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start releases while the guest boots; the result comes when that is over.
func (r *released) start(t *testing.T, use func() error) <-chan error {
	result := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	go func() {
		defer cancel()
		result <- r.release(ctx, t, use)
	}()
	return result
}

// A measured guest gets its key from the owner's tool: collected, verified, sealed,
// injected and confirmed.
func TestRelease(t *testing.T) {
	t.Parallel()
	r := newReleased(t)
	result := r.start(t, func() error { return nil })
	r.runs(t)
	if err := <-result; err != nil {
		t.Errorf("release: %v", err)
	}
}

// The program of the tool's tests plays all of it, and says that it is false: a
// guest's folder is made and launched, the guest asks, and its program has the secrets
// that the settings name.
func TestSimulatedAttestation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	attest, vm := filepath.Join(dir, "attest"), filepath.Join(dir, "vm")
	oracle.Run(t, "go", "test", "-c", "-o", attest, "cocoroot/cmds/cocoroot")
	root := testRoot(t, dir, `
echo "boot-test: $(ls /run/cocoroot/secrets | tr '\n' ' '), password $(cat /run/cocoroot/secrets/password), token $TOKEN"
echo "boot-test: address $(ifconfig eth0 | grep 'inet addr')"
exit 9`)
	layer := filepath.Join(dir, "layer.tar")
	oracle.Run(t, "tar", "-C", root, "--owner=0", "--group=0", "-cf", layer, ".")
	oracle.Layout(t, filepath.Join(dir, "app"), map[string]any{"Entrypoint": []string{"/sbin/init"}}, layer)
	write(t, filepath.Join(dir, "settings"), fmt.Appendf(nil, "mode = [\"sev-snp\"]\nvcpu-type = \"EPYC-Genoa\"\nappend = \"no_timer_check\"\n"+
		"network = \"10.0.2.77/24\"\n[secret-file]\npassword = \"%s\"\n[secret-env]\nTOKEN = \"%s\"\n", fileGUID, envGUID))
	oracle.Run(t, oracle.Artifact(t, "cocoroot"), "create", filepath.Join(dir, "app"), "-o", vm, "--settings", filepath.Join(dir, "settings"))
	if err := os.Mkdir(filepath.Join(vm, "owner/secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(vm, "owner/secrets", fileGUID.String()), []byte("in a file"))
	write(t, filepath.Join(vm, "owner/secrets", envGUID.String()), []byte("in a variable"))
	launch := exec.Command(attest, "launch", vm, "--simulate", "--attest", filepath.Join(vm, "owner/owner.key"), "--forward", fmt.Sprintf("%d:80", freePort(t)), "--timeout", bootLimit.String())
	launch.Env = append(os.Environ(), "COCOROOT_FAKE_TSM="+oracle.Fixture(t, "faketsm/fake_tsm.ko"))
	out, err := launch.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 9 {
		t.Errorf("launch: %v; want exit code 9, the program's", err)
	}
	for _, want := range []string{ran, "FALSE", "asking the owner over serial:ttyS2", "boot-test: password , password in a file, token in a variable\n", "inet addr:10.0.2.77 "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the launch does not say %q:\n%s", want, out)
		}
	}
	ordinary := exec.Command(oracle.Artifact(t, "cocoroot"), "launch", "--help")
	if out, err := ordinary.Output(); err != nil || strings.Contains(string(out), "attest") {
		t.Errorf("the ordinary tool has --attest, or no help: %v", err)
	}
}

// What a processor reports of another guest, or of this one in other hands, gets
// nothing: the owner refuses for that reason, and the guest ends.
func TestReleaseRefuses(t *testing.T) {
	t.Parallel()
	edit := func(f func(*sevsnp.Report)) func(*released) {
		return func(r *released) {
			first := r.psp.Edit
			r.psp.Edit = func(report *sevsnp.Report) {
				first(report)
				f(report)
			}
		}
	}
	old := uint64(1)<<56 | 1<<48
	for check, change := range some(t, map[string]func(*released){
		"version":            edit(func(p *sevsnp.Report) { p.Version = 2 }),
		"generation":         edit(func(p *sevsnp.Report) { p.Cpuid1EaxFms = 0x00a00f11 }),
		"signer":             func(r *released) { r.expect.VLEK = true },
		"certificate":        func(r *released) { r.expect.Roots = nil },
		"certified chip":     edit(func(p *sevsnp.Report) { p.ChipId = make([]byte, 64) }),
		"certified firmware": edit(func(p *sevsnp.Report) { p.ReportedTcb = old }),
		"challenge":          func(r *released) { r.expect.Now = time.Now().Add(20 * time.Hour) },
		"measurement":        edit(func(p *sevsnp.Report) { p.Measurement = make([]byte, 48) }),
		"debugging":          edit(func(p *sevsnp.Report) { p.Policy |= 1 << 19 }),
		"migration":          edit(func(p *sevsnp.Report) { p.Policy |= 1 << 18 }),
		"privilege level":    edit(func(p *sevsnp.Report) { p.Vmpl = 1 }),
		"firmware":           edit(func(p *sevsnp.Report) { p.LaunchTcb = old }),
		"chip":               func(r *released) { r.expect.Chips = [][]byte{make([]byte, 64)} },
		"host data":          func(r *released) { r.expect.HostData = bytes.Repeat([]byte{1}, 32) },
		"ID key":             func(r *released) { r.expect.IDKey = bytes.Repeat([]byte{1}, 48) },
		"family ID":          func(r *released) { r.expect.FamilyID = bytes.Repeat([]byte{1}, 16) },
		"image ID":           func(r *released) { r.expect.ImageID = bytes.Repeat([]byte{1}, 16) },
		"report data":        func(r *released) { r.expect.Owner = bytes.Repeat([]byte{1}, 32) },
	}, "challenge", "measurement", "report data") {
		t.Run(check, func(t *testing.T) {
			t.Parallel()
			r := newReleased(t)
			change(r)
			result := r.start(t, func() error { t.Error("the challenge was used up"); return nil })
			r.fails(t, "RELEASE")
			refusal, ok := errors.AsType[*snp.Refusal](<-result)
			if !ok || refusal.Check != check {
				t.Errorf("the owner says %v; want a refusal for the %s", refusal, check)
			}
		})
	}
}

// Two guests that answer one challenge: one gets the key.
func TestOneChallengeReleasesOnce(t *testing.T) {
	t.Parallel()
	a, b := newReleased(t), newReleased(t)
	b.owner, b.expect.Owner, b.expect.Challenge = a.owner, a.expect.Owner, a.expect.Challenge
	b.cmdline = strings.Replace(b.cmdline, b.cmdline[strings.Index(b.cmdline, " cocoroot.owner="):], " cocoroot.owner="+policy.Owner(a.owner.Public).String(), 1)
	b.expect.Digests = []snp.Digest{b.digest(t)}
	path := filepath.Join(t.TempDir(), "challenge")
	file, err := a.expect.Challenge.File(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Write(false, file); err != nil {
		t.Fatal(err)
	}
	use := func() error { return a.expect.Challenge.Use(path) }
	first := a.start(t, use)
	a.runs(t)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	second := b.start(t, use)
	b.fails(t, "RELEASE")
	if err := <-second; err == nil {
		t.Error("one challenge released twice")
	}
}
