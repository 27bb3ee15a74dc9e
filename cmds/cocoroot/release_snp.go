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
	"cocoroot/unlock/release"
	"cocoroot/unlock/secret"
)

// The methods of a releaser for SEV-SNP.

// attestation are the options that say which SEV-SNP guest may have the secrets.
type attestation struct {
	wants                      snp.Expect
	ownerKey, key, vlek, certs string // files; certs is a folder
	minTCB                     string
	crls                       []string
}

// register adds the options, which are all for SEV-SNP.
func (o *attestation) register(c *cobra.Command) {
	o.wants.Generation, _ = snp.FindGeneration("Genoa")
	flags := c.Flags()
	flags.StringVar(&o.ownerKey, "owner", "", "SEV-SNP: the owner's `KEY` (NAME.key) whose public half the guest was sealed with")
	option(c, &o.wants.Generation, "generation", "SEV-SNP: `PROCESSOR`, one of "+strings.Join(snp.Generations(), ", ")+" (default: Genoa); "+milan, snp.FindGeneration)
	flags.StringVar(&o.certs, "certs", "", "SEV-SNP: `FOLDER` that release certs wrote")
	flags.StringVar(&o.key, "vcek", "", "SEV-SNP: the chip's certificate, DER or PEM (default: from --certs, or what the guest's host gave)")
	flags.StringVar(&o.vlek, "vlek", "", "SEV-SNP: the cloud's certificate instead, for reports that it signs")
	flags.StringArrayVar(&o.crls, "crl", nil, "SEV-SNP: revocation list that has to be good, beside that in --certs; may be repeated")
	flags.StringVar(&o.minTCB, "min-tcb", "", "SEV-SNP: least firmware, `VERSIONS` such as snp=28,microcode=84; of bootloader, tee, snp, microcode, fmc (default: AMD's for snp)")
	repeated(c, &o.wants.Require, "require", "SEV-SNP: `WHAT` else has to be so, of "+strings.Join(snp.RequirementNames(), ", ")+"; may be repeated", snp.FindRequirement)
	repeated(c, &o.wants.Chips, "chip", "SEV-SNP: ID of a chip that may run the guest, in `HEX`; may be repeated (default: any)", hex.DecodeString)
	option(c, &o.wants.HostData, "host-data", "SEV-SNP: HOST_DATA, 64 `HEX` digits", digits(32))
	option(c, &o.wants.IDKey, "id-key", "SEV-SNP: ID_KEY_DIGEST, 96 `HEX` digits", digits(48))
	option(c, &o.wants.FamilyID, "family-id", "SEV-SNP: FAMILY_ID, 32 `HEX` digits", digits(16))
	option(c, &o.wants.ImageID, "image-id", "SEV-SNP: IMAGE_ID, 32 `HEX` digits", digits(16))
	choices(c, "generation", snp.Generations()...)
	choices(c, "require", snp.RequirementNames()...)
	only(c, attested, "generation", "certs", "vcek", "vlek", "crl", "min-tcb", "require", "chip", "host-data", "id-key", "family-id", "image-id")
	needFor(c, attested, "owner")
}

// milan is why it has to be named.
const milan = "on a Milan chip, software of the host can extract the seed of its keys (arXiv 2605.12990)"

// expect returns what the options demand.
func (r *releaser) expect() (snp.Expect, error) {
	e := r.wants
	var err error
	if e.Generation.Name == "Milan" && len(e.Chips) == 0 {
		r.warn("%s, and then sign any report as that chip; --chip names those that you know", milan)
	}
	switch e.MinTCB = e.Generation.Floor; {
	case r.minTCB != "":
		if e.MinTCB, err = snp.ParseTCB(r.minTCB, e.MinTCB); err != nil {
			return e, fault.Usagef("--min-tcb: %w", err)
		}
	case e.MinTCB == snp.TCB{}:
		return e, fault.Usagef("--min-tcb is needed for %s: which firmware is the least there is not known here, AMD's security bulletins have it", e.Generation.Name)
	}
	for _, d := range r.digests {
		if len(d) != len(snp.Digest{}) {
			return e, fault.Usagef("--digest: %x is not 96 hex digits, which %s has", d, attested)
		}
		e.Digests = append(e.Digests, snp.Digest(d))
	}
	for _, id := range e.Chips {
		if len(id) != e.Generation.ChipSize {
			return e, fault.Usagef("--chip: %x has %d bytes, and a chip's ID of %s %d", id, len(id), e.Generation.Name, e.Generation.ChipSize)
		}
	}
	if (e.FamilyID != nil || e.ImageID != nil) && e.IDKey == nil {
		return e, fault.Usagef("--family-id and --image-id come from an ID block, which the host gives: --id-key says whose it has to be")
	}
	if r.key != "" && r.vlek != "" {
		return e, fault.Usagef("a report is signed with one key: give --vcek or --vlek")
	}
	e.VLEK, e.Roots = r.vlek != "", r.roots
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
func (r *releaser) attest(e snp.Expect, q snp.Request) error {
	v, err := r.evidence(q)
	if err != nil {
		return err
	}
	e.Now = time.Now()
	facts, err := snp.Verify(e, q, v)
	untold := r.tell(snp.NewVerdict(facts, err))
	if err == nil {
		return untold
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

// carry connects to the guest and runs f.
func (r *releaser) carry(ctx context.Context, f func(context.Context, *snp.Carrier) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.patience())
	defer cancel()
	carrier, err := snp.NewCarrier(r.channel)
	if err != nil {
		return err
	}
	defer carrier.Close()
	err = f(ctx, carrier)
	switch {
	case errors.Is(err, snp.ErrOtherGuest):
		return fault.New(fault.Secret, err, "the guest asks anew at each boot and for each challenge: collect its report and verify that; cocoroot release run does all in one connection")
	case errors.Is(err, snp.ErrSilent):
		return fault.Hintf(err, "is cocoroot.owner= in the guest's command line, and the port of its cocoroot.channel= at %s, with no other program connected? --timeout gives it more time", r.channel)
	case errors.Is(err, snp.ErrGone):
		return fault.Hintf(err, "its console says why")
	case errors.Is(err, snp.ErrUnreached):
		return fault.Hintf(err, "QEMU makes the socket when the guest starts (launch --channel) and lets in one program at a time; an owner reaches it through ssh -L")
	}
	return err
}

// patience is how long the guest may take, which may have to boot first.
func (r *releaser) patience() time.Duration { return cmp.Or(r.timeout, 5*time.Minute) }

// collectRequest writes the report of a guest.
func (r *releaser) collectRequest(c *cobra.Command, _ []string) error {
	ch, err := snp.ReadChallenge(r.challenge)
	if err != nil {
		return err
	}
	return r.carry(c.Context(), func(ctx context.Context, carrier *snp.Carrier) error {
		q, err := carrier.Collect(ctx, ch.Bytes)
		if err != nil {
			return err
		}
		b, err := q.Encode()
		return r.publish(r.stdout, b, "for cocoroot release verify; the guest waits", err)
	})
}

// injectAnswer gives a packet to the guest that it is for.
func (r *releaser) injectAnswer(c *cobra.Command, args []string) error {
	p, err := readRelease(args[0], "packet", "verify", snp.ParsePacket)
	if err != nil {
		return err
	}
	return r.carry(c.Context(), func(ctx context.Context, carrier *snp.Carrier) error {
		confirm, err := carrier.Inject(ctx, p)
		if err == nil {
			fmt.Fprintf(r.stdout, "the guest has opened its secrets, and confirms it with %x\n", confirm)
		}
		return err
	})
}

// verifyRequest verifies a report and writes the packet.
func (r *releaser) verifyRequest(_ *cobra.Command, args []string) error {
	e, err := r.expect()
	if err != nil {
		return err
	}
	q, err := readRelease(args[0], "report", "collect --channel", snp.ParseReport)
	if err != nil {
		return err
	}
	if e.Challenge, err = snp.ReadChallenge(r.challenge); err != nil {
		return err
	}
	p, confirm, err := r.answer(e, q, args[1:])
	if err == nil {
		err = e.Challenge.Use(r.challenge) // before anything can be released
	}
	if err != nil {
		return err
	}
	b, err := p.Encode()
	r.path += "_packet.json"
	return r.publish(r.prose(), b, fmt.Sprintf("for cocoroot release inject; it is for this one boot\nthe guest will confirm it with %x", confirm), err)
}

// answer verifies a request and, only on a match, reads the secrets and seals them.
func (r *releaser) answer(e snp.Expect, q snp.Request, pairs []string) (p snp.Packet, confirm [release.ConfirmSize]byte, err error) {
	owner, err := r.readOwner(r.ownerKey)
	if err != nil {
		return p, confirm, err
	}
	defer owner.Close()
	e.Owner = owner.Public
	if err := r.attest(e, q); err != nil {
		return p, confirm, err
	}
	table, err := r.read(r.app, pairs, snp.MaxTable)
	if err != nil {
		return p, confirm, err
	}
	defer table.Close()
	if _, err := secret.Entries(table.Bytes()); err != nil {
		return p, confirm, fmt.Errorf("the guest would refuse these secrets: %w", err)
	}
	return owner.Seal(q, table.Bytes())
}

// runAttested does everything at the owner's, with a challenge of this moment.
func (r *releaser) runAttested(c *cobra.Command, pairs []string) error {
	e, err := r.expect()
	if err != nil {
		return err
	}
	e.Challenge = snp.NewChallenge(time.Now(), r.patience())
	return r.carry(c.Context(), func(ctx context.Context, carrier *snp.Carrier) error {
		q, err := carrier.Collect(ctx, e.Challenge.Bytes)
		if err != nil {
			return err
		}
		p, want, err := r.answer(e, q, pairs)
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
		fmt.Fprintln(r.prose(), "the guest has opened its secrets")
		return nil
	})
}
