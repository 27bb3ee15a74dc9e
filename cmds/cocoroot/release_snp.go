package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/snp"
	"cocoroot/initramfs/strictjson"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secret"
)

// attestation are the options that say which SEV-SNP guest may have the secrets.
type attestation struct {
	want             snp.Expect
	owner, challenge string
	key, vlek, certs string
	minTCB           string
	crls             []string
}

// register adds the options, which are all for SEV-SNP.
func (o *attestation) register(c *cobra.Command) {
	o.want.Generation, _ = snp.FindGeneration("Genoa")
	flags := c.Flags()
	flags.StringVar(&o.owner, "owner", "", "SEV-SNP: the owner's key (NAME.key) whose public half the guest was sealed with")
	option(c, &o.want.Generation, "generation", "SEV-SNP: processor, one of "+strings.Join(snp.Generations(), ", ")+" (default: Genoa); "+milan, snp.FindGeneration)
	flags.StringVar(&o.certs, "certs", "", "SEV-SNP: folder that release certs wrote")
	flags.StringVar(&o.key, "vcek", "", "SEV-SNP: the chip's certificate, DER or PEM (default: from --certs, or what the guest's host gave)")
	flags.StringVar(&o.vlek, "vlek", "", "SEV-SNP: the cloud's certificate instead, for reports that it signs")
	flags.StringArrayVar(&o.crls, "crl", nil, "SEV-SNP: revocation list that has to be good, beside that in --certs; may be repeated")
	flags.StringVar(&o.minTCB, "min-tcb", "", "SEV-SNP: least firmware, such as snp=28,microcode=84; of bootloader, tee, snp, microcode, fmc (default: AMD's for snp)")
	repeated(c, &o.want.Require, "require", "SEV-SNP: what else has to be so, of "+strings.Join(snp.RequirementNames(), ", ")+"; may be repeated", snp.FindRequirement)
	repeated(c, &o.want.Chips, "chip", "SEV-SNP: ID of a chip that may run the guest, in hex; may be repeated (default: any)", hex.DecodeString)
	option(c, &o.want.HostData, "host-data", "SEV-SNP: HOST_DATA, 64 hex digits", digits(32))
	option(c, &o.want.IDKey, "id-key", "SEV-SNP: ID_KEY_DIGEST, 96 hex digits", digits(48))
	option(c, &o.want.FamilyID, "family-id", "SEV-SNP: FAMILY_ID, 32 hex digits", digits(16))
	option(c, &o.want.ImageID, "image-id", "SEV-SNP: IMAGE_ID, 32 hex digits", digits(16))
	choices(c, "generation", snp.Generations()...)
	choices(c, "require", snp.RequirementNames()...)
	only(c, attested, "generation", "certs", "vcek", "vlek", "crl", "min-tcb", "require", "chip", "host-data", "id-key", "family-id", "image-id")
	needFor(c, attested, "owner")
}

// milan is why it has to be named.
const milan = "on a Milan chip, software of the host can extract the seed of its keys (arXiv 2605.12990)"

// expect returns what the options demand.
func (o *attestation) expect(a *app, digests [][]byte) (snp.Expect, error) {
	e := o.want
	var err error
	if e.Generation.Name == "Milan" && len(e.Chips) == 0 {
		a.warn("%s, and then sign any report as that chip; --chip names those that you know", milan)
	}
	switch e.MinTCB = e.Generation.Floor; {
	case o.minTCB != "":
		if e.MinTCB, err = snp.ParseTCB(o.minTCB, e.MinTCB); err != nil {
			return e, fault.Usagef("--min-tcb: %w", err)
		}
	case e.MinTCB == snp.TCB{}:
		return e, fault.Usagef("--min-tcb is needed for %s: which firmware is the least there is not known here, AMD's security bulletins have it", e.Generation.Name)
	}
	for _, d := range digests {
		if len(d) != len(snp.Digest{}) {
			return e, fault.Usagef("--digest: %x is not 96 hex digits, which %s has", d, attested)
		}
		e.Digests = append(e.Digests, snp.Digest(d))
	}
	for _, id := range e.Chips {
		if len(id) != e.Generation.ChipSize() {
			return e, fault.Usagef("--chip: %x has %d bytes, and a chip's ID of %s %d", id, len(id), e.Generation.Name, e.Generation.ChipSize())
		}
	}
	if (e.FamilyID != nil || e.ImageID != nil) && e.IDKey == nil {
		return e, fault.Usagef("--family-id and --image-id come from an ID block, which the host gives: --id-key says whose it has to be")
	}
	if o.key != "" && o.vlek != "" {
		return e, fault.Usagef("a report is signed with one key: give --vcek or --vlek")
	}
	e.VLEK, e.Roots = o.vlek != "", a.roots
	return e, nil
}

// digits returns a function that reads so many bytes in hexadecimal digits.
func digits(size int) func(string) ([]byte, error) {
	return func(s string) ([]byte, error) {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != size {
			return nil, fmt.Errorf("%.200q is not %d hex digits", s, 2*size)
		}
		return b, nil
	}
}

// evidence reads the certificates that go with a report.
func (o *attestation) evidence(r snp.Request) (snp.Evidence, error) {
	v, err := snp.Find(o.certs, r) // with a revocation list, if the folder has one
	if path := o.key + o.vlek; path != "" && (err == nil || errors.Is(err, snp.ErrNoCertificate)) {
		v.Key, err = files.Read(path, snp.MaxCertificate)
	}
	if errors.Is(err, snp.ErrNoCertificate) {
		return v, fault.Hintf(err, "cocoroot release certs REPORT -o DIR gets it from AMD, on any machine that is online; then --certs DIR")
	}
	for _, path := range o.crls {
		if err == nil {
			var list []byte
			list, err = files.Read(path, snp.MaxCertificate)
			v.CRLs = append(v.CRLs, list)
		}
	}
	return v, err
}

// attest verifies a request, and says so. Only on a match is the error nil.
func (r *releaser) attest(a *app, e snp.Expect, q snp.Request) error {
	v, err := r.evidence(q)
	if err != nil {
		return err
	}
	e.Now = time.Now()
	facts, err := snp.Verify(e, q, v)
	if err := a.print(snp.NewVerdict(facts, err), r.asJSON); err != nil {
		return err
	}
	if err == nil {
		return nil
	}
	var hint string
	if refused, ok := errors.AsType[*snp.Refusal](err); ok {
		hint = refusalHints[refused.Check]
	}
	return fault.New(fault.Mismatch, fmt.Errorf("the secrets are not released: %w", err), cmp.Or(hint, "do not trust this guest until you know why"))
}

// refusalHints are the next steps after refusals, by the check.
var refusalHints = map[string]string{
	"generation":         "--generation names another; " + milan + ", so it has to be named",
	"signer":             "--vlek accepts reports that a cloud's key signs",
	"revocation":         "cocoroot release certs gets a new list",
	"certified firmware": "the certificate is for other firmware; cocoroot release certs gets the one for this report",
	"certified chip":     "the certificate is for another chip; cocoroot release certs gets the one for this report",
	"challenge":          "cocoroot release challenge makes a new one; collect the report with it",
	"firmware":           "the host needs newer firmware; --min-tcb says what you accept",
}

func (a *app) releaseChallenge() *cobra.Command {
	c := verb("challenge -o F", "at the owner's: make a challenge for one SEV-SNP guest",
		"  cocoroot release challenge -o challenge\n  scp challenge HOST:", noArgs)
	var out output
	out.register(c, "where to write it; a copy goes to the host, and this file stays, for release verify to use up")
	life := c.Flags().Duration("expires", time.Hour, "how long it is good, by this machine's clock")
	c.RunE = func(*cobra.Command, []string) error {
		if *life < time.Second {
			return fault.Usagef("--expires: %s is no time", *life)
		}
		challenge := snp.NewChallenge(time.Now(), *life)
		f, err := challenge.File(out.path)
		if err == nil {
			err = files.Write(out.force, f)
		}
		if err == nil {
			fmt.Fprintf(a.stdout, "%s: for cocoroot release collect and verify, until %s\n", out.path, challenge.Expires.Local().Format(time.RFC3339))
		}
		return err
	}
	return c
}

func (a *app) releaseCerts() *cobra.Command {
	c := verb("certs REPORT -o DIR", "anywhere online: get AMD's certificate for a SEV-SNP report",
		"  cocoroot release certs report.json -o certs", takes(1, 1, "one argument, the report"))
	dir := c.Flags().StringP("output", "o", "", "folder for them; what it has is not asked for again")
	need(c, "output")
	c.RunE = func(c *cobra.Command, args []string) error {
		q, err := readRequest(args[0])
		if err != nil {
			return err
		}
		names, err := snp.KDS().Fetch(c.Context(), q, *dir)
		for _, name := range names {
			fmt.Fprintf(a.stdout, "%s\n", name)
		}
		return err
	}
	return c
}

func readRequest(path string) (snp.Request, error) {
	b, err := files.Read(path, snp.MaxFile)
	if err != nil {
		return snp.Request{}, err
	}
	q, err := snp.ParseReport(b)
	if err != nil {
		return q, wrongKind(fmt.Errorf("cannot read the report %s: %w", path, err), "cocoroot release collect --channel writes it")
	}
	return q, nil
}

// wrongKind adds the next step to an error of a report's or a packet's file.
func wrongKind(err error, otherwise string) error {
	if errors.Is(err, strictjson.ErrKind) {
		return fault.Hintf(err, "files of kind sev go with --qmp, --tik and --tek, those of kind sev-snp with --channel and --owner")
	}
	return fault.Hintf(err, "%s", otherwise)
}

// channel are the options of what talks to a SEV-SNP guest.
type channel struct {
	name string
	wait *time.Duration
}

// register adds the option, and makes --timeout count for it too.
func (o *channel) register(c *cobra.Command, m *monitor) {
	c.Flags().StringVar(&o.name, "channel", "", "SEV-SNP: the unix socket where QEMU has the guest's port, or tcp-listen:ADDRESS:PORT for a guest that connects")
	needFor(c, attested, "channel")
	needFor(c, injected, "qmp")
	o.wait = &m.timeout
}

// guestTimeout is how long a guest may take that has to boot first.
const guestTimeout = 5 * time.Minute

// timeout returns how long the guest may take.
func (o *channel) timeout(c *cobra.Command) time.Duration {
	if c.Flags().Changed("timeout") {
		return *o.wait
	}
	return guestTimeout
}

// carry connects and runs f.
func (o *channel) carry(c *cobra.Command, f func(context.Context, *snp.Carrier) error) error {
	wait := o.timeout(c)
	if wait <= 0 {
		return fault.Usagef("--timeout: %s is no time to wait", wait)
	}
	ctx, cancel := context.WithTimeout(c.Context(), wait)
	defer cancel()
	carrier, err := snp.NewCarrier(o.name)
	if err != nil {
		return err
	}
	defer carrier.Close()
	err = f(ctx, carrier)
	switch {
	case errors.Is(err, snp.ErrOtherGuest):
		return fault.New(fault.Secret, err, "each boot asks anew: collect its report and verify that")
	case errors.Is(err, snp.ErrSilent):
		return fault.Hintf(err, "is cocoroot.owner= in the guest's command line, and the port of its cocoroot.channel= at %s? --timeout gives it more time", o.name)
	case errors.Is(err, snp.ErrGone):
		return fault.Hintf(err, "its console says why")
	}
	return err
}

// collectRequest writes the report of a SEV-SNP guest.
func (a *app) collectRequest(c *cobra.Command, o channel, challenge string, out output) error {
	ch, err := snp.ReadChallenge(challenge)
	if err != nil {
		return err
	}
	return o.carry(c, func(ctx context.Context, carrier *snp.Carrier) error {
		q, err := carrier.Collect(ctx, ch.Bytes)
		if err != nil {
			return err
		}
		b, err := q.Encode()
		return out.publish(a.stdout, b, "for cocoroot release verify; the guest waits", err)
	})
}

// injectAnswer gives a packet to the SEV-SNP guest that it is for.
func (a *app) injectAnswer(c *cobra.Command, o channel, path string) error {
	b, err := files.Read(path, snp.MaxFile)
	if err != nil {
		return err
	}
	p, err := snp.ParsePacket(b)
	if err != nil {
		return wrongKind(fmt.Errorf("cannot read the packet %s: %w", path, err), "cocoroot release verify writes it")
	}
	return o.carry(c, func(ctx context.Context, carrier *snp.Carrier) error {
		confirm, err := carrier.Inject(ctx, p)
		if err == nil {
			fmt.Fprintf(a.stdout, "the guest has opened its secrets, and confirms it with %x\n", confirm)
		}
		return err
	})
}

// verifyRequest verifies a SEV-SNP report and writes the packet.
func (a *app) verifyRequest(r *releaser, o packetOutput, args []string) error {
	e, err := r.expect(a, r.digests)
	if err != nil {
		return err
	}
	q, err := readRequest(args[0])
	if err != nil {
		return err
	}
	if e.Challenge, err = snp.ReadChallenge(r.challenge); err != nil {
		return err
	}
	p, confirm, err := r.answer(a, e, q, args[1:], func() error { return e.Challenge.Use(r.challenge) })
	if err != nil {
		return err
	}
	b, err := p.Encode()
	o.path += "_packet.json"
	return o.publish(r.prose(a), b, fmt.Sprintf("for cocoroot release inject; it is for this one boot\nthe guest will confirm it with %x", confirm), err)
}

// answer verifies a request and, on a match alone, reads the secrets and seals
// them. What use does comes before anything can be released.
func (r *releaser) answer(a *app, e snp.Expect, q snp.Request, pairs []string, use func() error) (p snp.Packet, confirm [release.ConfirmSize]byte, err error) {
	owner, err := a.readOwner(r.owner)
	if err != nil {
		return p, confirm, err
	}
	defer owner.Close()
	e.Owner = owner.Public
	if err := r.attest(a, e, q); err != nil {
		return p, confirm, err
	}
	table, err := r.read(a, pairs, snp.MaxTable)
	if err != nil {
		return p, confirm, err
	}
	defer table.Close()
	if _, err := secret.Entries(table.Bytes()); err != nil {
		return p, confirm, fmt.Errorf("the guest would refuse these secrets: %w", err)
	}
	if p, confirm, err = owner.Seal(q, table.Bytes()); err != nil {
		return p, confirm, err
	}
	return p, confirm, use()
}

// runAttested does everything at the owner's, with a challenge of this moment.
func (a *app) runAttested(c *cobra.Command, r *releaser, o channel, pairs []string) error {
	e, err := r.expect(a, r.digests)
	if err != nil {
		return err
	}
	e.Challenge = snp.NewChallenge(time.Now(), o.timeout(c))
	return o.carry(c, func(ctx context.Context, carrier *snp.Carrier) error {
		q, err := carrier.Collect(ctx, e.Challenge.Bytes)
		if err != nil {
			return err
		}
		p, want, err := r.answer(a, e, q, pairs, func() error { return nil })
		if err != nil {
			carrier.Refuse(ctx)
			return err
		}
		got, err := carrier.Inject(ctx, p)
		if err != nil {
			return err
		}
		if !slices.Equal(got, want[:]) {
			return fault.New(fault.Secret, errors.New("the guest's confirmation is wrong"), "what answered at the end is not the guest that asked; the secrets are for that one only")
		}
		fmt.Fprintln(r.prose(a), "the guest has opened its secrets")
		return nil
	})
}
