package policy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Release says how a guest gets its secrets that are not injected: it asks the
// owner over a channel. The zero value is for injected secrets.
type Release struct {
	Owner   Owner
	Channel Channel
}

// Asks reports whether the guest asks its owner.
func (r Release) Asks() bool { return r.Owner != Owner{} }

// Owner is the Ed25519 public key whose signature an answer has to carry.
type Owner [32]byte

// ownerPrefix says what kind of key an Owner is.
const ownerPrefix = "ed25519:"

// String returns the form that ParseOwner reads.
func (o Owner) String() string { return ownerPrefix + hex.EncodeToString(o[:]) }

// MarshalText implements encoding.TextMarshaler.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Owner) UnmarshalText(b []byte) (err error) {
	*o, err = ParseOwner(string(b))
	return err
}

// ParseOwner reads the value of cocoroot.owner=: ed25519: and 64 hexadecimal
// digits. The key that is all zeros, which has no private half, is refused.
func ParseOwner(s string) (Owner, error) {
	var o Owner
	text, ok := strings.CutPrefix(s, ownerPrefix)
	key, err := hex.DecodeString(text)
	if !ok || err != nil || len(key) != len(o) || Owner(key) == o {
		return o, fmt.Errorf("%.80q is not %s and 64 hexadecimal digits", s, ownerPrefix)
	}
	return Owner(key), nil
}

// ChannelKind is a way for the guest to speak.
type ChannelKind string

// The ways, named as in the command line.
const (
	Serial ChannelKind = "serial" // a serial port
	Virtio ChannelKind = "virtio" // a virtio port
	TCP    ChannelKind = "tcp"    // the guest connects to an address
	Vsock  ChannelKind = "vsock"  // the guest connects to a context
)

// Channel leads from the guest to its owner. All of it passes through the host.
type Channel struct {
	Kind    ChannelKind
	Name    string         // of a serial port under /dev, or of a virtio port
	Address netip.AddrPort // for TCP
	CID     uint32         // for Vsock
	Port    uint32         // for Vsock
}

// defaultChannel is the third serial port: firmware and kernel talk on the first.
var defaultChannel = Channel{Kind: Serial, Name: "ttyS2"}

// String returns the form that ParseChannel reads.
func (c Channel) String() string {
	switch c.Kind {
	case TCP:
		return string(c.Kind) + ":" + c.Address.String()
	case Vsock:
		return fmt.Sprintf("%s:%d:%d", c.Kind, c.CID, c.Port)
	}
	return string(c.Kind) + ":" + c.Name
}

// MarshalText implements encoding.TextMarshaler.
func (c Channel) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Channel) UnmarshalText(b []byte) (err error) {
	*c, err = ParseChannel(string(b))
	return err
}

var errChannel = errors.New("not one of serial:ttyS2, virtio:NAME, tcp:ADDRESS:PORT, vsock:CID:PORT")

// maxPort is the longest name of a virtio port, bytes.
const maxPort = 64

// ParseChannel reads the value of cocoroot.channel=. An address is a number:
// nothing resolves names before the secrets are there.
func ParseChannel(s string) (Channel, error) {
	kind, text, _ := strings.Cut(s, ":")
	c := Channel{Kind: ChannelKind(kind)}
	ok := false
	switch c.Kind {
	case Serial:
		c.Name = text
		ok = len(text) == len("ttyS0") && text[:4] == "ttyS" && text[4] >= '0' && text[4] <= '3'
	case Virtio:
		c.Name, ok = text, isName(text, maxPort)
	case TCP:
		var err error
		c.Address, err = netip.ParseAddrPort(text)
		ok = err == nil && c.Address.Port() != 0 && c.Address.Addr().Zone() == ""
	case Vsock:
		cid, port, _ := strings.Cut(text, ":")
		n, err := strconv.ParseUint(cid, 10, 32)
		p, errPort := strconv.ParseUint(port, 10, 32)
		c.CID, c.Port, ok = uint32(n), uint32(p), err == nil && errPort == nil
	}
	if !ok {
		return Channel{}, fmt.Errorf("%.80q is %w", s, errChannel)
	}
	return c, nil
}

// Static is an address that the kernel's ip= parameter gives to an interface.
// Kernels that have IP_PNP act on it themselves.
type Static struct {
	Address   netip.Prefix // of the interface, with the network's size
	Gateway   netip.Addr   // zero for none
	Interface string       // empty for the first one
}

// parseStatic reads the value of ip= (Documentation/admin-guide/nfs/nfsroot.rst):
// CLIENT:SERVER:GATEWAY:NETMASK:HOST:INTERFACE:off and more. It returns the zero
// value for one that has no fixed IPv4 address, such as dhcp, which only the kernel
// acts on.
func parseStatic(s string) (Static, error) {
	f := strings.Split(s, ":")
	if len(f) < 4 || f[0] == "" {
		return Static{}, nil
	}
	for len(f) < 6 {
		f = append(f, "")
	}
	client, err := netip.ParseAddr(f[0])
	mask, errMask := netip.ParseAddr(f[3])
	if err != nil || errMask != nil || !client.Is4() || !mask.Is4() {
		return Static{}, fmt.Errorf("%.80q is not CLIENT::GATEWAY:NETMASK::INTERFACE:off", s)
	}
	m := mask.As4()
	bits := 0
	for bits < 32 && m[bits/8]&(0x80>>(bits%8)) != 0 {
		bits++
	}
	out := Static{Address: netip.PrefixFrom(client, bits), Interface: f[5]}
	if f[2] != "" {
		out.Gateway, err = netip.ParseAddr(f[2])
	}
	if err != nil || f[2] != "" && !out.Gateway.Is4() || f[5] != "" && !isName(f[5], 15) {
		return Static{}, fmt.Errorf("%.80q is not CLIENT::GATEWAY:NETMASK::INTERFACE:off", s)
	}
	return out, nil
}
