//go:build snptest

package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/spf13/cobra"

	"cocoroot/initramfs/release/snp"
	"cocoroot/initramfs/release/snptest"
)

// A build with the tag snptest plays SEV-SNP: launch --simulate --attest KEY. The
// guest gets its secrets from its owner, who is this program too; processor and
// reports are FALSE.

func (o *launchOptions) registerAttest(c *cobra.Command) {
	key := c.Flags().String("attest", "", "TEST BUILD, with --simulate: play SEV-SNP with FALSE reports, and answer the guest with this owner's key")
	module := c.Flags().String("fake-tsm", "build/faketsm/fake_tsm.ko", "TEST BUILD: the kernel module that gives false reports")
	o.attest = func(ctx context.Context, a *app) (func(), error) {
		if *key == "" {
			return func() {}, nil
		}
		if !o.simulate {
			return nil, errors.New("--attest is for --simulate")
		}
		return o.play(ctx, a, *key, *module)
	}
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
