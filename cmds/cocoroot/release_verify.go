package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/release/snp"
)

// demands are the options that say which guest may have the secret.
type demands struct {
	digests              [][]byte
	want                 release.Expectation
	debug, sharing, noES bool
	asJSON               bool
}

func (d *demands) register(c *cobra.Command) {
	flags := c.Flags()
	repeated(c, &d.digests, "digest", "launch digest to expect, 64 hex digits (SEV-SNP: 96), as cocoroot measure prints it; may be repeated, one has to match", parseDigest)
	flags.BoolVar(&d.debug, "allow-debug", false, "accept a policy without NODBG: the host may read the guest's memory")
	flags.BoolVar(&d.sharing, "allow-key-sharing", false, "accept a policy without NOKS: another guest may have the same memory key")
	flags.BoolVar(&d.noES, "allow-no-es", false, "accept a policy without ES: the host sees the guest's registers")
	option(c, &d.want.MinAPI, "min-api", "least API version of the platform's firmware, MAJOR.MINOR", parseAPI)
	flags.Uint8Var(&d.want.MinBuild, "min-build", 0, "least build of the platform's firmware")
	flags.BoolVar(&d.asJSON, "json", false, "print JSON")
}

// parseDigest reads a launch digest of either kind of release.
func parseDigest(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != len(session.Digest{}) && len(b) != len(snp.Digest{}) {
		return nil, errors.New("it is not 64 hex digits, nor 96")
	}
	return b, nil
}

func parseAPI(s string) (version [2]uint8, err error) {
	major, minor, _ := strings.Cut(s, ".")
	for i, text := range []string{major, minor} {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil {
			return version, errors.New("it is not of the form MAJOR.MINOR")
		}
		version[i] = uint8(n)
	}
	return version, nil
}

// expectation returns what the options demand on SEV and SEV-ES.
func (d *demands) expectation() (release.Expectation, error) {
	e := d.want
	e.Policy = session.Strict
	for _, b := range d.digests {
		if len(b) != len(session.Digest{}) {
			return e, fault.Usagef("--digest: a digest of 96 digits is SEV-SNP's, and these options are for %s", injected)
		}
		e.Digests = append(e.Digests, session.Digest(b))
	}
	for bit, allowed := range map[session.Policy]bool{session.NoDebug: d.debug, session.NoKeySharing: d.sharing, session.EncryptedState: d.noES} {
		if allowed {
			e.Policy &^= bit
		}
	}
	return e, nil
}

// releaser is what verify and run have in common.
type releaser struct {
	demands
	secrets
	attestation
	expected release.Expectation
}

// register adds the options of both.
func (r *releaser) register(c *cobra.Command) {
	r.demands.register(c)
	r.secrets.register(c)
	r.attestation.register(c)
	need(c, "digest")
	only(c, injected, "allow-debug", "allow-key-sharing", "allow-no-es", "min-api", "min-build", "firmware")
	needFor(c, injected, "tik", "tek")
}

// seal verifies a report and, on a match alone, reads the secrets and encrypts
// them.
func (r *releaser) seal(a *app, report release.Report, pairs []string) (packet.Packet, error) {
	keys, err := r.keys(a)
	if err != nil {
		return packet.Packet{}, err
	}
	defer keys.Close()
	digest, err := release.Verify(report, keys, r.expected)
	if err := a.print(release.NewVerdict(report, r.expected, digest, err), r.asJSON); err != nil {
		return packet.Packet{}, err
	}
	if err != nil {
		return packet.Packet{}, fault.New(fault.Mismatch, fmt.Errorf("the secret is not released: %w", err), mismatchHint(err))
	}
	area, err := release.TableArea(r.firmware)
	if err != nil {
		return packet.Packet{}, err
	}
	table, err := r.read(a, pairs, area)
	if err != nil {
		return packet.Packet{}, err
	}
	defer table.Close()
	return packet.Seal(keys, table.Bytes(), report.Measurement)
}

// prose is where sentences go: nowhere, beside JSON.
func (r *releaser) prose(a *app) io.Writer {
	if r.asJSON {
		return io.Discard
	}
	return a.stdout
}

func mismatchHint(err error) string {
	switch {
	case errors.Is(err, release.ErrPolicy):
		return "launch the guest with policy 0x7; --allow-debug, --allow-key-sharing and --allow-no-es each accept less"
	case errors.Is(err, release.ErrVersion):
		return "the host needs a newer SEV firmware"
	}
	return "do not trust this guest until you know why"
}

func (a *app) releaseVerify() *cobra.Command {
	var r releaser
	var o packetOutput
	c := verb("verify REPORT --digest HEX {--tik F --tek F|--owner KEY --challenge F} GUID=FILE… -o NAME", "at the owner's: check the report, and on a match write a packet",
		"  cocoroot release verify report.json --digest $(cat digest) --tik vm_tik.bin --tek vm_tek.bin \\\n    disk=image.key -o vm\n"+
			"  cocoroot release verify report.json --digest $(cat digest) --owner me.key --challenge challenge --certs certs \\\n    disk=image.key -o vm",
		takes(1, many, "a report and the secrets"))
	r.register(c)
	o.register(c)
	c.Flags().StringVar(&r.challenge, "challenge", "", "SEV-SNP: the challenge that the report was collected with; it is used up")
	only(c, injected, "raw")
	needFor(c, attested, "challenge")
	c.RunE = either(func(_ *cobra.Command, args []string) (err error) {
		if r.expected, err = r.expectation(); err != nil {
			return err
		}
		b, err := files.Read(args[0], release.MaxReport)
		if err != nil {
			return err
		}
		report, err := release.ParseReport(b)
		if err != nil {
			return wrongKind(fmt.Errorf("cannot read the report %s: %w", args[0], err), "cocoroot release collect writes it")
		}
		p, err := r.seal(a, report, args[1:])
		if err != nil {
			return err
		}
		return o.write(r.prose(a), p, report.Measurement)
	}, func(_ *cobra.Command, args []string) error {
		return a.verifyRequest(&r, o, args)
	})
	return c
}

func (a *app) releaseRun() *cobra.Command {
	var r releaser
	var m monitor
	var o channel
	c := verb("run {--qmp SOCKET --tik F --tek F|--channel SOCKET --owner KEY} --digest HEX GUID=FILE…", "all of it at the owner's, through a forwarded socket",
		"  ssh -L /run/me/qmp:/run/vm/qmp HOST\n  cocoroot release run --qmp /run/me/qmp --digest $(cat digest) --tik vm_tik.bin --tek vm_tek.bin \\\n    disk=image.key --cont",
		cobra.ArbitraryArgs)
	m.register(c.Flags())
	r.register(c)
	o.register(c, &m)
	cont := c.Flags().Bool("cont", false, "then start the guest")
	only(c, injected, "cont")
	c.RunE = either(func(c *cobra.Command, pairs []string) (err error) {
		if r.expected, err = r.expectation(); err != nil {
			return err
		}
		a.note("run this where your keys are safe, with the host's socket forwarded to it, never on the host itself")
		return m.talk(c.Context(), func(ctx context.Context, q *qmp.Client) error {
			report, err := release.Collect(ctx, q)
			if err != nil {
				return err
			}
			p, err := r.seal(a, report, pairs)
			if err != nil {
				return err
			}
			return inject(ctx, r.prose(a), q, p, report.Measurement, *cont)
		})
	}, func(c *cobra.Command, pairs []string) error {
		return a.runAttested(c, &r, o, pairs)
	})
	return c
}
