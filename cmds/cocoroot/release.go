package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/launch/qmp"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
)

func (a *app) release() *cobra.Command {
	return group("release", "give a measured guest its secrets: collect, verify, inject", "",
		a.releasePlatform(), a.releaseChallenge(), a.releaseCollect(), a.releaseCerts(), a.releaseVerify(), a.releaseInject(), a.releaseRun())
}

// monitor are the options of what talks to QEMU.
type monitor struct {
	socket  string
	timeout time.Duration
}

func (m *monitor) register(flags *pflag.FlagSet) {
	flags.StringVar(&m.socket, "qmp", "", "QEMU's QMP socket, as in -qmp unix:SOCKET,server=on,wait=off")
	flags.DurationVar(&m.timeout, "timeout", 30*time.Second, "how long QEMU may take for everything; SEV-SNP: the guest, which may still have to boot (default 5m)")
}

// talk connects and runs f.
func (m *monitor) talk(ctx context.Context, f func(context.Context, *qmp.Client) error) error {
	if m.timeout <= 0 {
		return fault.Usagef("--timeout: %s is no time to wait", m.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	c, err := qmp.Dial(ctx, m.socket)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return fault.Hintf(err, "QEMU makes the socket with -qmp unix:SOCKET,server=on,wait=off; you need write access to it")
	}
	if err != nil {
		return release.Explain(err)
	}
	defer c.Close()
	return release.Explain(f(ctx, c))
}

// run is talk for a whole verb without arguments.
func (m *monitor) run(f func(context.Context, *qmp.Client) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error { return m.talk(c.Context(), f) }
}

func (a *app) releasePlatform() *cobra.Command {
	var m monitor
	var out output
	c := verb("platform --qmp SOCKET -o FILE", "on the host: write the platform's certificates, for a session",
		"  cocoroot release platform --qmp /run/vm/qmp -o platform.cert", noArgs)
	m.register(c.Flags())
	out.register(c, "where to write the certificates, in the order of sevctl export")
	need(c, "qmp")
	c.RunE = m.run(func(ctx context.Context, q *qmp.Client) error {
		p, err := release.QueryPlatform(ctx, q)
		said := "PDH, PEK, OCA and CEK, for cocoroot secret session"
		if len(p.CPU0ID) > 0 {
			said += fmt.Sprintf("\nthe CEK with AMD's signature: https://kdsintf.amd.com/cek/id/%X", p.CPU0ID)
		}
		return out.publish(a.stdout, append(p.PDH, p.Chain...), said, err)
	})
	return c
}

func (a *app) releaseCollect() *cobra.Command {
	var m monitor
	var o channel
	var out output
	c := verb("collect {--qmp SOCKET|--channel SOCKET --challenge F} -o REPORT", "on the host: write what the platform reports of a launch",
		"  cocoroot release collect --qmp /run/vm/qmp -o report.json\n  cocoroot release collect --channel /run/vm/owner --challenge challenge -o report.json", noArgs)
	flags := c.Flags()
	m.register(flags)
	o.register(c, &m)
	challenge := flags.String("challenge", "", "SEV-SNP: the owner's challenge, or a copy of it")
	out.register(c, "where to write the report")
	needFor(c, attested, "challenge")
	c.RunE = either(m.run(func(ctx context.Context, q *qmp.Client) error {
		r, err := release.Collect(ctx, q)
		if err != nil {
			return err
		}
		b, err := r.Encode()
		return out.publish(a.stdout, b, fmt.Sprintf("firmware %s, policy %s; for cocoroot release verify", r.API(), r.Policy), err)
	}), func(c *cobra.Command, _ []string) error {
		return a.collectRequest(c, o, *challenge, out)
	})
	return c
}

func (a *app) releaseInject() *cobra.Command {
	var m monitor
	var o channel
	c := verb("inject PACKET {--qmp|--channel} SOCKET", "on the host: give the packet to the guest",
		"  cocoroot release inject vm_packet.json --qmp /run/vm/qmp --cont\n  cocoroot release inject vm_packet.json --channel /run/vm/owner", takes(1, 1, "one argument, the packet (NAME_packet.json)"))
	flags := c.Flags()
	m.register(flags)
	o.register(c, &m)
	cont := flags.Bool("cont", false, "then start the guest")
	only(c, injected, "cont")
	c.RunE = either(func(c *cobra.Command, args []string) error {
		b, err := files.Read(args[0], packet.MaxFile)
		if err != nil {
			return err
		}
		p, measurement, err := packet.Decode(b)
		if err != nil {
			return wrongKind(fmt.Errorf("cannot read the packet %s: %w", args[0], err), "cocoroot release verify writes it")
		}
		return m.talk(c.Context(), func(ctx context.Context, q *qmp.Client) error {
			return inject(ctx, a.stdout, q, p, measurement, *cont)
		})
	}, func(c *cobra.Command, args []string) error {
		return a.injectAnswer(c, o, args[0])
	})
	return c
}

// inject gives a packet to the guest and, if asked, starts it.
func inject(ctx context.Context, w io.Writer, c *qmp.Client, p packet.Packet, m session.Measurement, cont bool) error {
	if err := release.Inject(ctx, c, p, m); err != nil {
		return err
	}
	fmt.Fprintln(w, "QEMU says that the platform took the secret")
	if !cont {
		fmt.Fprintln(w, "the guest is still stopped: --cont, QMP's cont or virsh resume starts it")
		return nil
	}
	if err := release.Continue(ctx, c); err != nil {
		// Not wrapped, as above: an interrupt leaves the secret where it is.
		return fault.Hintf(fmt.Errorf("the secret is in the guest, but QEMU did not say that it runs: %v", err), "QMP's cont or virsh resume starts it")
	}
	fmt.Fprintln(w, "the guest runs")
	return nil
}
