package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"

	"cocoroot/initramfs/release/snp"
	"cocoroot/initramfs/release/snptest"
)

// TestMain is the tool that simulates SEV-SNP when its arguments have --attest KEY, as in
//
//	go test -c -o attest ./cmds/cocoroot
//	./attest launch --simulate --attest me.key …
//
// The guest gets its secrets from its owner, who is this program too; processor
// and reports are FALSE. COCOROOT_FAKE_TSM is the kernel module that gives them.
func TestMain(m *testing.M) {
	i := slices.Index(os.Args, "--attest")
	if i < 0 || i+1 == len(os.Args) {
		os.Exit(m.Run())
	}
	key, module := os.Args[i+1], cmp.Or(os.Getenv("COCOROOT_FAKE_TSM"), "build/faketsm/fake_tsm.ko")
	a := &app{stdout: os.Stdout, stderr: os.Stderr}
	a.starting = func(ctx context.Context, o *launchOptions) (func(), error) {
		return o.play(ctx, a, key, module)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	os.Exit(a.main(ctx, slices.Delete(os.Args, i, i+2)[1:]))
}

// stage is what snptest asks of a test.
type stage struct {
	testing.TB
	ctx  context.Context
	ends []func()
}

func (s *stage) Helper()                  {}
func (s *stage) Context() context.Context { return s.ctx }
func (s *stage) Cleanup(f func())         { s.ends = append(s.ends, f) }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "attest")
	if err != nil {
		panic(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// play puts the false processor under the guest, and its owner at the end of its
// channel.
func (o *launchOptions) play(ctx context.Context, a *app, key, module string) (func(), error) {
	if !o.simulate {
		return nil, errors.New("--attest is for --simulate")
	}
	owner, err := a.readOwner(key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stage{ctx: ctx}
	s.Cleanup(func() { owner.Close() })
	s.Cleanup(cancel) // the first to be called
	a.warn("TEST BUILD: this guest's processor and its reports are FALSE")
	generation, err := snp.FindGeneration("Genoa")
	if err != nil {
		return nil, err
	}
	measured := snp.Digest(bytes.Repeat([]byte{0xfa}, len(snp.Digest{}))) // nobody measures
	chip := snptest.NewChip("Genoa-B1", snptest.TCB{Bootloader: 10, SNP: 0x20, Microcode: 84})
	psp := &snptest.PSP{Chip: chip, Edit: func(r *sevsnp.Report) { r.Measurement = measured[:] }}
	o.config.Initrd = snptest.Archive(s, o.config.Initrd, module)
	o.config.ExtraArgs = append(o.config.ExtraArgs, psp.Serve(s)...)
	o.config.ChannelSocket = filepath.Join(s.TempDir(), "owner")
	o.config.SecretTable = nil // it goes another way
	e := snp.Expect{Owner: owner.Public, Challenge: snp.NewChallenge(time.Now(), time.Hour), Generation: generation,
		Digests: []snp.Digest{measured}, MinTCB: generation.Floor,
		Roots: func(snp.Generation, bool) (ark, ask *x509.Certificate, err error) { return chip.Ark, chip.Ask, nil }}
	go func() {
		if err := o.answer(ctx, owner, e, chip.Vcek.Raw); err != nil && ctx.Err() == nil {
			a.warn("the owner does not answer: %v", err)
		}
	}()
	return func() {
		for _, f := range slices.Backward(s.ends) {
			f()
		}
	}, nil
}

// answer is the owner.
func (o *launchOptions) answer(ctx context.Context, owner *snp.Owner, e snp.Expect, vcek []byte) error {
	for ctx.Err() == nil {
		if conn, err := net.Dial("unix", o.config.ChannelSocket); err == nil {
			conn.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	carrier, err := snp.NewCarrier(o.config.ChannelSocket)
	if err != nil {
		return err
	}
	defer carrier.Close()
	q, err := carrier.Collect(ctx, e.Challenge.Bytes)
	if err != nil {
		return err
	}
	e.Now = time.Now()
	if _, err := snp.Verify(e, q, snp.Evidence{Key: vcek}); err != nil {
		carrier.Refuse(ctx)
		return err
	}
	p, _, err := owner.Seal(q, o.table.Bytes())
	if err != nil {
		return err
	}
	_, err = carrier.Inject(ctx, p)
	return err
}
