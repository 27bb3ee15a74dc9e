package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/initramfs/release/snp"
)

// The methods of a releaser for SEV and SEV-ES.

// demands are the options that say which guest may have the secret.
type demands struct {
	digests              [][]byte // of either kind of release
	want                 release.Expectation
	debug, sharing, noES bool
}

func (d *demands) register(c *cobra.Command) {
	flags := c.Flags()
	repeated(c, &d.digests, "digest", "launch digest to expect, 64 `HEX` digits (SEV-SNP: 96), as cocoroot measure prints it; may be repeated, one has to match", parseDigest)
	flags.BoolVar(&d.debug, "allow-debug", false, "accept a policy without NODBG: the host may read the guest's memory")
	flags.BoolVar(&d.sharing, "allow-key-sharing", false, "accept a policy without NOKS: another guest may have the same memory key")
	flags.BoolVar(&d.noES, "allow-no-es", false, "accept a policy without ES: the host sees the guest's registers")
	option(c, &d.want.MinAPI, "min-api", "least API version of the platform's firmware, `MAJOR.MINOR`", parseAPI)
	flags.Uint8Var(&d.want.MinBuild, "min-build", 0, "least build `NUMBER` of the platform's firmware")
	only(c, injected, "allow-debug", "allow-key-sharing", "allow-no-es", "min-api", "min-build")
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

// expectation returns what the options demand.
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

// talk connects to QEMU and runs f.
func (r *releaser) talk(ctx context.Context, f func(context.Context, *qmp.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.timeout, 30*time.Second))
	defer cancel()
	c, err := qmp.Dial(ctx, r.socket)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return fault.Hintf(err, "QEMU makes the socket with -qmp unix:SOCKET,server=on,wait=off; you need write access to it")
	}
	if err != nil {
		return release.Explain(err)
	}
	defer c.Close()
	return release.Explain(f(ctx, c))
}

func (r *releaser) platform(c *cobra.Command, _ []string) error {
	return r.talk(c.Context(), func(ctx context.Context, q *qmp.Client) error {
		p, err := release.QueryPlatform(ctx, q)
		said := "PDH, PEK, OCA and CEK, for cocoroot secret session"
		if len(p.CPU0ID) > 0 {
			said += fmt.Sprintf("\nthe CEK with AMD's signature: https://kdsintf.amd.com/cek/id/%X", p.CPU0ID)
		}
		return r.publish(r.stdout, append(p.PDH, p.Chain...), said, err)
	})
}

func (r *releaser) collect(c *cobra.Command, _ []string) error {
	return r.talk(c.Context(), func(ctx context.Context, q *qmp.Client) error {
		report, err := release.Collect(ctx, q)
		if err != nil {
			return err
		}
		b, err := report.Encode()
		return r.publish(r.stdout, b, fmt.Sprintf("firmware %s, policy %s; for cocoroot release verify", report.API(), report.Policy), err)
	})
}

func (r *releaser) verify(_ *cobra.Command, args []string) error {
	e, err := r.expectation()
	if err != nil {
		return err
	}
	report, err := readRelease(args[0], "report", "collect", release.ParseReport)
	if err != nil {
		return err
	}
	p, err := r.seal(e, report, args[1:])
	if err != nil {
		return err
	}
	return r.write(r.prose(), p)
}

// seal verifies a report and, only on a match, reads the secrets and encrypts them.
func (r *releaser) seal(e release.Expectation, report release.Report, pairs []string) (p packet.Packet, err error) {
	keys, err := r.keys(r.app)
	if err != nil {
		return p, err
	}
	defer keys.Close()
	digest, refused := release.Verify(report, keys, e)
	err = r.tell(release.NewVerdict(report, e, digest, refused))
	if refused != nil {
		return p, fault.New(fault.Mismatch, fmt.Errorf("the secret is not released: %w", refused), mismatchHint(refused))
	}
	if err != nil {
		return p, err
	}
	area, err := release.TableArea(r.firmware)
	if err != nil {
		return p, err
	}
	table, err := r.read(r.app, pairs, area)
	if err != nil {
		return p, err
	}
	defer table.Close()
	return packet.Seal(keys, table.Bytes(), report.Measurement)
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

func (r *releaser) inject(c *cobra.Command, args []string) error {
	p, err := readRelease(args[0], "packet", "verify", packet.Decode)
	if err != nil {
		return err
	}
	return r.talk(c.Context(), func(ctx context.Context, q *qmp.Client) error { return r.give(ctx, q, p) })
}

// give gives a packet to the guest and, if asked, starts it.
func (r *releaser) give(ctx context.Context, q *qmp.Client, p packet.Packet) error {
	if err := release.Inject(ctx, q, p); err != nil {
		return err
	}
	fmt.Fprintln(r.prose(), "QEMU says that the platform took the secret")
	if !r.cont {
		fmt.Fprintln(r.prose(), "the guest is still stopped: --cont, QMP's cont or virsh resume starts it")
		return nil
	}
	if err := release.Continue(ctx, q); err != nil {
		// Not wrapped, as above: an interrupt leaves the secret where it is.
		return fault.Hintf(fmt.Errorf("the secret is in the guest, but QEMU did not say that it runs: %v", err), "QMP's cont or virsh resume starts it")
	}
	fmt.Fprintln(r.prose(), "the guest runs")
	return nil
}

// run does everything at the owner's.
func (r *releaser) run(c *cobra.Command, pairs []string) error {
	e, err := r.expectation()
	if err != nil {
		return err
	}
	r.note("run this where your keys are safe, with the host's socket forwarded to it, never on the host itself")
	return r.talk(c.Context(), func(ctx context.Context, q *qmp.Client) error {
		report, err := release.Collect(ctx, q)
		if err != nil {
			return err
		}
		p, err := r.seal(e, report, pairs)
		if err != nil {
			return err
		}
		return r.give(ctx, q, p)
	})
}
