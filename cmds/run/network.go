package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"cocoroot/unlock/channel"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/program"
)

const (
	firstLease = 20 * time.Second // how long the program waits for an address
	tryAgain   = 30 * time.Second
	startAgain = 2 * time.Second // the process that asks, when it has ended
	leastRenew = 30 * time.Second
	mostDNS    = 3 // servers that a resolver asks
)

// network sets up the loopback and the first card. A guest without a card, or whose
// host gives it no address, runs without one: all of the network is the host's.
func network(n program.Network) error {
	// As under docker, every user may listen at every port.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if err := channel.Up("lo"); err != nil {
		return fmt.Errorf("cannot set up the loopback: %w", err)
	}
	card := channel.FirstInterface()
	switch {
	case card == "" && (n.DHCP || n.Address.IsValid()):
		say("there is no network card")
	case n.DHCP:
		ready := make(chan struct{})
		go keepAsking(card, ready)
		select {
		case <-ready:
		case <-time.After(firstLease):
			say("no address has come by DHCP on %s", card)
		}
	case n.Address.IsValid():
		// What anybody announces is none of this network's. Without IPv6 there is no such file.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+card+"/accept_ra", []byte("0"), 0)
		return configure(card, n)
	}
	return nil
}

// asker is the name of the process that asks for an address, whose argument is the card.
const asker = "cocoroot-dhcp"

// keepAsking has a process of its own ask: what that parses is for everyone on the
// network to write, and a fault there must not end the first process. ready is closed
// when there is an address.
func keepAsking(card string, ready chan<- struct{}) {
	for {
		r, w, err := os.Pipe()
		if err == nil {
			_, err = syscall.ForkExec("/proc/self/exe", []string{asker, card}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2, w.Fd()}})
			w.Close()
		}
		if err == nil {
			n, _ := r.Read(make([]byte, 1)) // none: it has ended
			if n == 1 && ready != nil {
				close(ready)
				ready = nil
			}
			_, _ = io.Copy(io.Discard, r) // until it ends
		}
		r.Close()
		say("what asks for an address on %s does not run; it is started again", card)
		time.Sleep(startAgain)
	}
}

// configure gives a card its address.
func configure(card string, n program.Network) error {
	s := policy.Static{Interface: card, Address: n.Address.Addr().As4(), Mask: policy.IPv4(net.CIDRMask(n.Address.Bits(), 32))}
	if n.Gateway.IsValid() {
		s.Gateway = n.Gateway.As4()
	}
	if err := channel.Configure(s); err != nil {
		return err
	}
	var text strings.Builder
	for _, d := range n.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", d)
	}
	return replace("/etc/resolv.conf", text.String())
}

// keepLease gets an address, says so with a byte, and renews it for as long as the
// guest runs.
func keepLease(card string, ready io.Writer) {
	var lease *nclient4.Lease
	for {
		next, err := ask(card, lease)
		var n program.Network
		if err == nil {
			n, err = fromLease(next.ACK)
		}
		if err == nil {
			err = configure(card, n)
		}
		if err != nil {
			say("no address by DHCP on %s: %v", card, err)
			lease = nil
			time.Sleep(tryAgain)
			continue
		}
		if ready != nil {
			say("%s has the address %s", card, n.Address)
			_, _ = ready.Write([]byte{1})
			ready = nil
		}
		lease = next
		time.Sleep(max(next.ACK.IPAddressLeaseTime(time.Hour)/2, leastRenew))
	}
}

// ask asks for a lease, or to keep the one that there is.
func ask(card string, lease *nclient4.Lease) (*nclient4.Lease, error) {
	if err := channel.Up(card); err != nil {
		return nil, err
	}
	c, err := nclient4.New(card, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(5))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if lease != nil {
		if kept, err := c.Renew(context.Background(), lease); err == nil {
			return kept, nil
		}
	}
	return c.Request(context.Background())
}

// fromLease takes from the host's answer what is used of it.
func fromLease(ack *dhcpv4.DHCPv4) (program.Network, error) {
	var n program.Network
	address, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	bits, _ := ack.SubnetMask().Size()
	if !address.IsValid() || !address.IsGlobalUnicast() || bits < 1 {
		return n, fmt.Errorf("the address %s with the mask %s is not a usable one", ack.YourIPAddr, ack.SubnetMask())
	}
	n.Address = netip.PrefixFrom(address, bits)
	for _, r := range ack.Router() {
		if a, ok := netip.AddrFromSlice(r.To4()); ok && n.Address.Contains(a) && !n.Gateway.IsValid() {
			n.Gateway = a
		}
	}
	for _, d := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(d.To4()); ok && len(n.DNS) < mostDNS {
			n.DNS = append(n.DNS, a)
		}
	}
	return n, nil
}
