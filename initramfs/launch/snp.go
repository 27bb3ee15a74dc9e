package launch

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoroot/unlock/policy"
)

// ID is an owner's signature over what may be launched under his name: the
// processor refuses another measurement or policy, and reports have the digest of
// the key. ParseID makes it.
type ID struct {
	Block, Auth string // in base64, as QEMU and libvirt take them
	AuthorKey   bool   // Auth has a second key, which signed the first one
}

// Sizes in bytes (SEV-SNP firmware ABI 56860, "ID Block" and "ID Authentication
// Information Structure"), and where in the second one AUTHOR_KEY is.
const (
	idBlockSize            = 96
	idAuthSize             = 4096
	authorKey, authorKeyTo = 0x880, 0xc84
)

// ParseID reads an ID block and its authentication information, each in base64.
// The signatures are the processor's to check.
func ParseID(block, auth []byte) (*ID, error) {
	b, err := decode(block, idBlockSize)
	if err != nil {
		return nil, fmt.Errorf("cannot use the ID block: %w", err)
	}
	a, err := decode(auth, idAuthSize)
	if err != nil {
		return nil, fmt.Errorf("cannot use the ID authentication information: %w", err)
	}
	id := &ID{Block: base64.StdEncoding.EncodeToString(b), Auth: base64.StdEncoding.EncodeToString(a)}
	id.AuthorKey = slices.ContainsFunc(a[authorKey:authorKeyTo], func(x byte) bool { return x != 0 })
	return id, nil
}

// decode says nothing of a text that may be another file's, such as a key's.
func decode(text []byte, size int) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("it is not %d bytes in base64", size)
	}
	return b, nil
}

// HostDataText returns the host's data in base64, empty for none.
func (s SEV) HostDataText() string {
	if s.HostData == [32]byte{} {
		return ""
	}
	return base64.StdEncoding.EncodeToString(s.HostData[:])
}

// snpObject returns what the object has for SEV-SNP only, with a comma before each.
func (s SEV) snpObject() string {
	var o string
	if text := s.HostDataText(); text != "" {
		o += ",host-data=" + text
	}
	if s.ID != nil {
		o += ",id-block=" + s.ID.Block + ",id-auth=" + s.ID.Auth
		if s.ID.AuthorKey {
			o += ",author-key-enabled=on"
		}
	}
	return o
}

// AsksAtSocket reports whether the guest asks for its secrets at a port, which
// is a socket on the host.
func (c Config) AsksAtSocket() bool {
	return c.Channel.Kind == policy.Serial || c.Channel.Kind == policy.Virtio
}

func (c Config) checkChannel() error {
	switch {
	case c.Channel.Kind != "" && c.SEV.Mode != ModeSNP:
		return fmt.Errorf("%w: the guest's line has cocoroot.owner=, so it asks for its secrets; that takes sev-snp, and not %s", ErrConfig, c.SEV.Mode)
	case c.Channel == policy.Channel{Kind: policy.Serial, Name: "ttyS0"}:
		return fmt.Errorf("%w: %s is the console, where the guest cannot ask", ErrConfig, c.Channel)
	case c.AsksAtSocket() != (c.ChannelSocket != ""):
		return fmt.Errorf("%w: %w", ErrConfig, errChannel)
	}
	return nil
}

var errChannel = errors.New("a socket for the channel goes with cocoroot.owner= and a serial or virtio cocoroot.channel= in the guest's line")

// channel returns the options for the port at which the guest asks for its secrets.
func (c Config) channel() []string {
	if c.ChannelSocket == "" {
		return nil
	}
	args := []string{"-chardev", "socket,id=owner,server=on,wait=off,path=" + escape(c.ChannelSocket)}
	if c.Channel.Kind == policy.Serial {
		return append(args, "-device", "isa-serial,chardev=owner,index="+c.SerialPort())
	}
	return append(args, "-device", c.virtio("virtio-serial-pci"), "-device", "virtserialport,chardev=owner,name="+escape(c.Channel.Name))
}

// SerialPort returns the number of the channel's serial port, empty without one.
func (c Config) SerialPort() string {
	if c.Channel.Kind != policy.Serial {
		return ""
	}
	return strings.TrimPrefix(c.Channel.Name, "ttyS")
}
