package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret/table"
)

func (a *app) secret() *cobra.Command {
	return group("secret", "make a table of secrets, a session with a platform, a packet", "",
		a.secretBuild(), a.secretInspect(), a.secretSession(), a.secretPacket())
}

// tableFirmware adds the option for the firmware that a table has to fit.
func tableFirmware(flags *pflag.FlagSet) *string {
	return flags.String("firmware", "", "for a secret table: the firmware that will get it (default: OVMF AmdSev's area of 3072 bytes)")
}

func (a *app) secretBuild() *cobra.Command {
	var o output
	var with release.Contents
	c := verb("build GUID=FILE… -o TABLE", "build the table of secrets that is injected",
		"  cocoroot secret build disk=image.key -o table", cobra.ArbitraryArgs)
	c.Long = "The entry disk is the image's key, and the entry state that of the state disks;\nothers go by their GUIDs."
	o.register(c, "where to write the table, which holds the secrets in the clear (mode 0600)")
	stateOrders(c, &with.Orders)
	firmware := tableFirmware(c.Flags())
	c.RunE = func(_ *cobra.Command, pairs []string) error {
		area, err := release.TableArea(*firmware)
		if err != nil {
			return err
		}
		with.Pairs = pairs
		t, err := release.BuildTable(a.warn, with, area)
		if err != nil {
			return err
		}
		defer t.Close()
		if err := files.Write(o.force, files.Secret(o.path, t.Bytes())); err != nil {
			return err
		}
		n := len(table.Inspect(t.Bytes(), area).Entries)
		fmt.Fprintf(a.stdout, "%s: %s, %d of %d bytes\n", o.path, count(n, "entry", "entries"), len(t.Bytes()), area)
		return nil
	}
	return c
}

func (a *app) secretSession() *cobra.Command {
	var o output
	var ca, root, generation string
	policy := session.Strict
	c := verb("session CERTIFICATES… -o NAME", "start a session with a platform, which makes transport keys",
		"  cocoroot secret session platform.cert -o vm --generation Milan", takes(1, many, "the platform's certificates"))
	flags := c.Flags()
	o.register(c, "start of the files' names, `NAME`: NAME_tik.bin, NAME_tek.bin (both 0600), NAME_session.b64, NAME_godh.b64")
	option(c, &policy, "policy", "the guest's `POLICY` (default: 0x7, which is NODBG, NOKS and ES)", session.ParsePolicy)
	flags.StringVar(&ca, "amd-ca", "", "AMD's ASK and ARK, such as ask_ark_rome.cert; Milan, Genoa and Turin need none")
	flags.StringVar(&root, "amd-root", "", "also believe the root key with this SHA-256 of its SubjectPublicKeyInfo, in `HEX`")
	flags.StringVar(&generation, "generation", "", "accept platforms of this `GENERATION` only: Rome, Milan, Genoa, Turin, or Naples, which nothing else accepts")
	choices(c, "generation", "Rome", "Milan", "Genoa", "Turin", "Naples")
	c.RunE = func(_ *cobra.Command, args []string) error {
		pdh, found, err := release.VerifyPlatform(args, ca, root)
		if err != nil {
			return err
		}
		if err := release.CheckGeneration(found, generation); err != nil {
			return err
		}
		if !policy.Has(session.Strict) {
			a.warn("the policy %s protects less than %s", policy, session.Strict)
		}
		if err := release.WriteSession(pdh, policy, o.path, o.force); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "platform: genuine, up to AMD's root of %s\npolicy: %s\n", found, policy)
		fmt.Fprintf(a.stdout, "%[1]s_session.b64, %[1]s_godh.b64: for the host, to launch the guest with\n", o.path)
		fmt.Fprintf(a.stdout, "%[1]s_tik.bin, %[1]s_tek.bin: only for you; keep them secret\n", o.path)
		return nil
	}
	return c
}

// secrets are the options that name what is to be injected, and the keys of
// the session. They are names of files: no secret is ever an argument.
type secrets struct {
	tik, tek, table, firmware string
	more                      []string // as arguments are
	orders                    []release.Order
}

func (s *secrets) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&s.tik, "tik", "", "transport integrity key of the session (NAME_tik.bin)")
	flags.StringVar(&s.tek, "tek", "", "transport encryption key of the session (NAME_tek.bin)")
	flags.StringVar(&s.table, "table", "", "secret table that secret build wrote, instead of GUID=FILE…")
	flags.StringVar(&s.firmware, "firmware", "", "the firmware that will get the table (default: OVMF AmdSev's area of 3072 bytes)")
	flags.StringArrayVar(&s.more, "secret", nil, "one more `GUID=FILE`; may be repeated")
	stateOrders(c, &s.orders)
}

// keys reads the transport keys, and warns where others can.
func (s *secrets) keys(a *app) (*session.Keys, error) {
	for _, path := range []string{s.tik, s.tek} {
		a.warnOthers(path, "whoever has it can forge a measurement or read the secret")
	}
	return session.ReadKeys(s.tik, s.tek)
}

// read returns the table of at most area bytes that the options or the pairs
// name. A table that the guest would not take is an error.
func (s *secrets) read(a *app, pairs []string, area int) (*secmem.Buffer, error) {
	pairs = slices.Concat(pairs, s.more)
	if (s.table != "") == (len(pairs) > 0) {
		return nil, fault.Usagef("give either --table or GUID=FILE…")
	}
	if s.table == "" {
		return release.BuildTable(a.warn, release.Contents{Pairs: pairs, Orders: s.orders}, area)
	}
	if len(s.orders) > 0 {
		return nil, fault.Usagef("orders about state disks go into a table that is made: secret build takes them")
	}
	buf, err := files.ReadSecret(s.table, inspect.MaxTable)
	if err != nil {
		return nil, err
	}
	if err := judgeTable(s.table, table.Inspect(buf.Bytes(), area)); err != nil {
		buf.Close()
		return nil, err
	}
	return buf, nil
}

// packetOutput are the options of what writes a packet.
type packetOutput struct {
	output
	raw bool
}

func (o *packetOutput) register(c *cobra.Command) {
	o.output.register(c, "start of the files' names, `NAME`: NAME_packet.json, NAME_header.b64, NAME_secret.b64")
	c.Flags().BoolVar(&o.raw, "raw", false, "also write NAME_header.bin and NAME_secret.bin")
}

// write writes the packet's files, all of them or none.
func (o *packetOutput) write(w io.Writer, p packet.Packet) error {
	all, err := p.Files(o.path, o.raw)
	if err != nil {
		return err
	}
	if err := files.Write(o.force, all...); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: for cocoroot release inject\n", all[0].Path)
	fmt.Fprintf(w, "%s, %s: for virsh domsetlaunchsecstate --secrethdr, --secret\n", all[1].Path, all[2].Path)
	fmt.Fprintln(w, "the packet fits this one launch; another launch needs another report and another packet")
	return nil
}

func (a *app) secretPacket() *cobra.Command {
	var s secrets
	var o packetOutput
	c := verb("packet GUID=FILE… --tik F --tek F --measurement BASE64 -o NAME", "encrypt a table for one launch whose measurement was checked",
		"  cocoroot secret packet --table table --tik vm_tik.bin --tek vm_tek.bin --measurement … -o vm", cobra.ArbitraryArgs)
	var m session.Measurement
	s.register(c)
	option(c, &m, "measurement", "launch measurement in `BASE64`, as query-sev-launch-measure or virsh domlaunchsecinfo prints it", session.ParseMeasurement)
	o.register(c)
	need(c, "tik", "tek", "measurement")
	c.RunE = func(_ *cobra.Command, pairs []string) error {
		area, err := release.TableArea(s.firmware)
		if err != nil {
			return err
		}
		table, err := s.read(a, pairs, area)
		if err != nil {
			return err
		}
		defer table.Close()
		keys, err := s.keys(a)
		if err != nil {
			return err
		}
		defer keys.Close()
		p, err := packet.Seal(keys, table.Bytes(), m)
		if err != nil {
			return err
		}
		a.warn("this measurement was not checked; cocoroot release verify does both")
		return o.write(a.stdout, p)
	}
	return c
}
