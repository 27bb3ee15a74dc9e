package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/inspect"
	"cocoroot/initramfs/release"
	"cocoroot/initramfs/release/packet"
	"cocoroot/initramfs/release/session"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret/table"
)

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
	flags.StringArrayVar(&s.more, "secret", nil, "one more GUID=FILE; may be repeated")
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
	o.output.register(c, "beginning of the names of the files: NAME_packet.json, NAME_header.b64, NAME_secret.b64")
	c.Flags().BoolVar(&o.raw, "raw", false, "also write NAME_header.bin and NAME_secret.bin")
}

// write writes the packet's files, all of them or none.
func (o *packetOutput) write(w io.Writer, p packet.Packet, m session.Measurement) error {
	all, err := packet.Files(o.path, p, m, o.raw)
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
	option(c, &m, "measurement", "launch measurement in base64, as query-sev-launch-measure or virsh domlaunchsecinfo prints it", session.ParseMeasurement)
	o.register(c)
	need(c, "tik", "tek", "measurement")
	c.RunE = func(_ *cobra.Command, pairs []string) error { return a.sealPacket(s, o, m, pairs) }
	return c
}

func (a *app) sealPacket(s secrets, o packetOutput, m session.Measurement, pairs []string) error {
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
	return o.write(a.stdout, p, m)
}
