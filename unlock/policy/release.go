package policy

import (
	"encoding/hex"
	"fmt"
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
	Name    string // of a serial port under /dev, or of a virtio port
	Address IPv4   // for TCP
	CID     uint32 // for Vsock
	Port    uint32 // for TCP and Vsock
}

// defaultChannel is the third serial port: firmware and kernel talk on the first.
var defaultChannel = Channel{Kind: Serial, Name: "ttyS2"}

// String returns the form that ParseChannel reads.
func (c Channel) String() string {
	switch c.Kind {
	case TCP:
		return fmt.Sprintf("%s:%s:%d", c.Kind, c.Address, c.Port)
	case Vsock:
		return fmt.Sprintf("%s:%d:%d", c.Kind, c.CID, c.Port)
	}
	return string(c.Kind) + ":" + c.Name
}

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
		address, port, _ := strings.Cut(text, ":")
		a, err := parseIPv4(address)
		p, errPort := strconv.ParseUint(port, 10, 16)
		c.Address, c.Port, ok = a, uint32(p), err == nil && errPort == nil && p != 0
	case Vsock:
		cid, port, _ := strings.Cut(text, ":")
		n, err := strconv.ParseUint(cid, 10, 32)
		p, errPort := strconv.ParseUint(port, 10, 32)
		c.CID, c.Port, ok = uint32(n), uint32(p), err == nil && errPort == nil
	}
	if !ok {
		return Channel{}, fmt.Errorf("%.80q is not one of serial:ttyS2, virtio:NAME, tcp:ADDRESS:PORT, vsock:CID:PORT", s)
	}
	return c, nil
}

// IPv4 is an address, in the order of the network.
type IPv4 [4]byte

// String returns the four numbers.
func (a IPv4) String() string { return fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3]) }

// parseIPv4 reads four numbers with dots between them. (Package netip would make
// the archive 23 KB larger.)
func parseIPv4(s string) (IPv4, error) {
	var a IPv4
	parts := strings.Split(s, ".")
	if len(parts) != len(a) {
		return IPv4{}, fmt.Errorf("%.32q is not an IPv4 address", s)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil || len(p) > 1 && p[0] == '0' {
			return IPv4{}, fmt.Errorf("%.32q is not an IPv4 address", s)
		}
		a[i] = byte(n)
	}
	return a, nil
}

// Static is an address that the kernel's ip= parameter gives to an interface.
// Kernels that have IP_PNP act on it themselves. The zero value is none.
type Static struct {
	Address, Mask IPv4
	Gateway       IPv4   // zero for none
	Interface     string // empty for the first one
}

// parseStatic reads the value of ip= (Documentation/admin-guide/nfs/nfsroot.rst):
// CLIENT:SERVER:GATEWAY:NETMASK:HOST:INTERFACE:off and more. It returns the zero
// value for one that has no fixed address, such as dhcp, which only the kernel acts
// on.
func parseStatic(s string) (Static, error) {
	f := strings.Split(s, ":")
	if len(f) < 4 || f[0] == "" {
		return Static{}, nil
	}
	var out Static
	for i, to := range map[int]*IPv4{0: &out.Address, 2: &out.Gateway, 3: &out.Mask} {
		a, err := parseIPv4(f[i])
		if err != nil && (i != 2 || f[i] != "") {
			return Static{}, err
		}
		*to = a
	}
	if len(f) > 5 && f[5] != "" {
		if !isName(f[5], 15) {
			return Static{}, fmt.Errorf("%.32q is not the name of a network card", f[5])
		}
		out.Interface = f[5]
	}
	return out, nil
}
