package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoroot/initramfs/archive"
	"cocoroot/initramfs/fault"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/program"
)

// containerFlags adds the options about the program of a container image.
func (o *sealOptions) containerFlags(c *cobra.Command) {
	p := &o.Container
	p.Grace, p.Network.DHCP = 10, true
	option(c, &p.Network, "network", "of a container image: its `NETWORK`: dhcp, none, or ADDRESS/BITS[,GATEWAY[,DNS…]] (default: dhcp)", parseNetwork)
	option(c, &p.Grace, "stop-timeout", "of a container image: the `TIME` that its program has after its stop signal, until it is killed (default: 10s)", parseSeconds)
	repeated(c, &p.Secrets, "secret-file", "of a container image: `NAME=GUID`, a secret entry that its program gets as the file /run/cocoroot/secrets/NAME; may be repeated",
		parseSecret(func(s *program.Secret, name string) { s.File = name }))
	repeated(c, &p.Secrets, "secret-env", "of a container image: `NAME=GUID`, a secret entry that its program gets as a variable of its environment; may be repeated",
		parseSecret(func(s *program.Secret, name string) { s.Env = name }))
	run := c.Flags().String("run", "", "of a container image: the first process to put into it (default: the file run beside this program)")
	p.First = func() ([]byte, error) {
		file, err := readPart("run", *run, "./build.sh tools builds it; --run names another")
		if err != nil {
			return nil, err
		}
		if err := archive.CheckRun(file); err != nil {
			return nil, fault.Hintf(fmt.Errorf("cannot put run into the image: %w", err), "./build.sh tools builds it; --run names another")
		}
		return file, nil
	}
}

// sealArgs takes the root and, after "--", arguments for a container image's program.
func sealArgs(c *cobra.Command, args []string) error {
	if n := c.ArgsLenAtDash(); n >= 0 {
		args = args[:n]
	}
	return takes(1, 1, "one argument, the root file system")(c, args)
}

func parseSecret(name func(*program.Secret, string)) func(string) (program.Secret, error) {
	return func(text string) (s program.Secret, err error) {
		before, guid, ok := strings.Cut(text, "=")
		if !ok {
			return s, fmt.Errorf("%.80q is not NAME=GUID", text)
		}
		name(&s, before)
		s.GUID, err = efi.Parse(guid)
		return s, err
	}
}

func parseSeconds(text string) (int, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d%time.Second != 0 {
		return 0, fmt.Errorf("%.32q is not a whole number of seconds, such as 10s", text)
	}
	return int(d / time.Second), nil
}

func parseNetwork(text string) (n program.Network, err error) {
	switch text {
	case "none":
		return n, nil
	case "dhcp":
		return program.Network{DHCP: true}, nil
	}
	address, rest, _ := strings.Cut(text, ",")
	if n.Address, err = netip.ParsePrefix(address); err != nil {
		return n, fmt.Errorf("%.80q is not dhcp, none, or ADDRESS/BITS[,GATEWAY[,NAMESERVER…]]", text)
	}
	if rest == "" {
		return n, nil
	}
	for i, part := range strings.Split(rest, ",") {
		a, err := netip.ParseAddr(part)
		switch {
		case err != nil:
			return n, fmt.Errorf("%.80q is not an address", part)
		case i == 0:
			n.Gateway = a
		default:
			n.DNS = append(n.DNS, a)
		}
	}
	return n, nil
}
