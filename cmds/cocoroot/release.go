package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/release/snp"
	"cocoroot/initramfs/strictjson"
)

func (a *app) release() *cobra.Command {
	return group("release", "give a measured guest its secrets: collect, verify, inject", "",
		a.releasePlatform(), a.releaseChallenge(), a.releaseCollect(), a.releaseCerts(), a.releaseVerify(), a.releaseInject(), a.releaseRun())
}

// releaser is a release: the options of its verbs, as they were given. The methods
// of each verb stand in release_sev.go and release_snp.go.
type releaser struct {
	*app
	socket  string        // QEMU's QMP socket
	channel string        // of an SEV-SNP guest
	timeout time.Duration // 0: the usual one
	demands
	secrets
	attestation
	packetOutput
	challenge string // file
	asJSON    bool
	cont      bool
}

// monitor adds the options of what talks to QEMU.
func (r *releaser) monitor(c *cobra.Command) {
	c.Flags().StringVar(&r.socket, "qmp", "", "QEMU's QMP `SOCKET`, as in -qmp unix:SOCKET,server=on,wait=off")
	option(c, &r.timeout, "timeout", "`TIME` that QEMU may take for everything (default: 30s); SEV-SNP: the guest, which may still have to boot (default: 5m)", parseTime)
}

// guest adds the options of what talks to a guest, of either kind.
func (r *releaser) guest(c *cobra.Command) {
	r.monitor(c)
	c.Flags().StringVar(&r.channel, "channel", "", "SEV-SNP: the unix `SOCKET` where QEMU has the guest's port, or tcp-listen:ADDRESS:PORT for a guest that connects")
	needFor(c, injected, "qmp")
	needFor(c, attested, "channel")
}

// start adds the option of what may start the guest.
func (r *releaser) start(c *cobra.Command) {
	c.Flags().BoolVar(&r.cont, "cont", false, "then start the guest")
	only(c, injected, "cont")
}

// owners adds the options of what verifies a report and makes a packet.
func (r *releaser) owners(c *cobra.Command) {
	r.demands.register(c)
	r.secrets.register(c)
	r.attestation.register(c)
	c.Flags().BoolVar(&r.asJSON, "json", false, "print JSON")
	need(c, "digest")
	only(c, injected, "firmware")
	needFor(c, injected, "tik", "tek")
}

// prose is where sentences go: nowhere, beside JSON.
func (r *releaser) prose() io.Writer {
	if r.asJSON {
		return io.Discard
	}
	return r.stdout
}

// tell prints a verdict. It names the launch, and so without it nothing is released.
func (r *releaser) tell(v interface{ Print(io.Writer) }) error {
	var text bytes.Buffer
	(&app{stdout: &text}).print(v, r.asJSON)
	_, err := r.stdout.Write(text.Bytes())
	return err
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && d < time.Second {
		err = fmt.Errorf("%s is no time to wait", d)
	}
	return d, err
}

// readRelease reads a report or a packet, which the other commands write.
func readRelease[T any](path, what, from string, parse func([]byte) (T, error)) (v T, err error) {
	b, err := files.Read(path, snp.MaxFile) // the others are smaller
	if err != nil {
		return v, err
	}
	if v, err = parse(b); err == nil {
		return v, nil
	}
	err = fmt.Errorf("cannot read the %s %s: %w", what, path, err)
	if errors.Is(err, strictjson.ErrKind) {
		return v, fault.Hintf(err, "files of kind sev go with --qmp, --tik and --tek, those of kind sev-snp with --channel and --owner")
	}
	return v, fault.Hintf(err, "cocoroot release %s writes it", from)
}

func (a *app) releasePlatform() *cobra.Command {
	r := releaser{app: a}
	c := verb("platform --qmp SOCKET -o FILE", "on the host: write the platform's certificates, for a session",
		"  cocoroot release platform --qmp /run/vm/qmp -o platform.cert", noArgs)
	r.monitor(c)
	r.output.register(c, "`FILE` for the certificates, in the order of sevctl export")
	need(c, "qmp")
	c.RunE = r.platform
	return c
}

func (a *app) releaseChallenge() *cobra.Command {
	var out output
	life := time.Hour
	c := verb("challenge -o F", "at the owner's: make a challenge for one SEV-SNP guest",
		"  cocoroot release challenge -o challenge\n  scp challenge HOST:", noArgs)
	out.register(c, "`FILE` to write; a copy goes to the host, and this file stays, for release verify to use up")
	option(c, &life, "expires", "`TIME` for which it is good, by this machine's clock (default: 1h)", parseTime)
	c.RunE = func(*cobra.Command, []string) error {
		challenge := snp.NewChallenge(time.Now(), life)
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
	c := verb("certs REPORT -o DIR", "anywhere online: get AMD's certificate for an SEV-SNP report",
		"  cocoroot release certs report.json -o certs", takes(1, 1, "one argument, the report"))
	dir := c.Flags().StringP("output", "o", "", "`FOLDER` for them; what it has is not asked for again")
	need(c, "output")
	c.RunE = func(c *cobra.Command, args []string) error {
		q, err := readRelease(args[0], "report", "collect --channel", snp.ParseReport)
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

func (a *app) releaseCollect() *cobra.Command {
	r := releaser{app: a}
	c := verb("collect {--qmp SOCKET|--channel SOCKET --challenge F} -o REPORT", "on the host: write what the platform reports of a launch",
		"  cocoroot release collect --qmp /run/vm/qmp -o report.json\n  cocoroot release collect --channel /run/vm/owner --challenge challenge -o report.json", noArgs)
	r.guest(c)
	c.Flags().StringVar(&r.challenge, "challenge", "", "SEV-SNP: `FILE` of the owner's challenge, or a copy of it")
	r.output.register(c, "`FILE` for the report")
	needFor(c, attested, "challenge")
	c.RunE = either(r.collect, r.collectRequest)
	return c
}

func (a *app) releaseVerify() *cobra.Command {
	r := releaser{app: a}
	c := verb("verify REPORT --digest HEX {--tik F --tek F|--owner KEY --challenge F} GUID=FILE… -o NAME", "at the owner's: check the report, and on a match write a packet",
		"  cocoroot release verify report.json --digest $(cat digest) --tik vm_tik.bin --tek vm_tek.bin \\\n    disk=image.key -o vm\n"+
			"  cocoroot release verify report.json --digest $(cat digest) --owner me.key --challenge challenge --certs certs \\\n    disk=image.key -o vm",
		takes(1, many, "a report and the secrets"))
	r.owners(c)
	r.packetOutput.register(c)
	c.Flags().StringVar(&r.challenge, "challenge", "", "SEV-SNP: `FILE` of the challenge that the report was collected with; it is used up")
	only(c, injected, "raw")
	needFor(c, attested, "challenge")
	c.RunE = either(r.verify, r.verifyRequest)
	return c
}

func (a *app) releaseInject() *cobra.Command {
	r := releaser{app: a}
	c := verb("inject PACKET {--qmp|--channel} SOCKET", "on the host: give the packet to the guest",
		"  cocoroot release inject vm_packet.json --qmp /run/vm/qmp --cont\n  cocoroot release inject vm_packet.json --channel /run/vm/owner", takes(1, 1, "one argument, the packet (NAME_packet.json)"))
	r.guest(c)
	r.start(c)
	c.RunE = either(r.inject, r.injectAnswer)
	return c
}

func (a *app) releaseRun() *cobra.Command {
	r := releaser{app: a}
	c := verb("run {--qmp SOCKET --tik F --tek F|--channel SOCKET --owner KEY} --digest HEX GUID=FILE…", "all of it at the owner's, through a forwarded socket",
		"  ssh -L /run/me/qmp:/run/vm/qmp HOST\n  cocoroot release run --qmp /run/me/qmp --digest $(cat digest) --tik vm_tik.bin --tek vm_tek.bin \\\n    disk=image.key --cont",
		cobra.ArbitraryArgs)
	r.guest(c)
	r.owners(c)
	r.start(c)
	c.RunE = either(r.run, r.runAttested)
	return c
}

// The two kinds of release, as users know them.
const (
	injected = "SEV and SEV-ES"
	attested = "SEV-SNP"
)

// isFor is the annotation of options that are for one of them: the kind and, of
// those without which that cannot be had, isNeeded.
const (
	isFor    = "cocoroot_for"
	isNeeded = "needed"
)

// only says that options are for one kind of release.
func only(c *cobra.Command, kind string, names ...string) { markFor(c, names, kind) }

// needFor is only for options without which that kind cannot be had.
func needFor(c *cobra.Command, kind string, names ...string) { markFor(c, names, kind, isNeeded) }

func markFor(c *cobra.Command, names []string, marks ...string) {
	for _, name := range names {
		if err := c.Flags().SetAnnotation(name, isFor, marks); err != nil {
			panic(err) // there is no such option
		}
	}
}

// either returns what runs one of the two, by the kind of release that the options
// are for. It is what they say, and never guessed.
func either(inject, attest func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		kind, err := chosen(c)
		switch {
		case err != nil:
			return err
		case kind == attested:
			return attest(c, args)
		}
		return inject(c, args)
	}
}

// chosen returns the kind of release that the options are for.
func chosen(c *cobra.Command) (kind string, err error) {
	var first string
	lacks := map[string][]string{}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		marks := f.Annotations[isFor]
		switch {
		case marks == nil:
		case !f.Changed && slices.Contains(marks, isNeeded):
			lacks[marks[0]] = append(lacks[marks[0]], "--"+f.Name)
		case !f.Changed:
		case kind == "":
			kind, first = marks[0], f.Name
		case kind != marks[0]:
			err = fault.Usagef("--%s is for %s, and --%s for %s", first, kind, f.Name, marks[0])
		}
	})
	switch {
	case err != nil:
		return "", err
	case kind == "":
		return "", fault.Usagef("%s needs %s for %s, or %s for %s", c.CommandPath(), listed(lacks[injected]), injected, listed(lacks[attested]), attested)
	}
	return kind, missingOptions(lacks[kind]...)
}
