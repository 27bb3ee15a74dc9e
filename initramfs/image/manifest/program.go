package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// Program is what a container image says of its program that matters outside.
type Program struct {
	Ports      []Port   `json:"ports,omitempty"`   // at which it listens
	Volumes    []string `json:"volumes,omitempty"` // folders whose files are to outlive it
	StopSignal int      `json:"stop_signal"`       // by which it ends; a number
}

// Port is a port at which a program listens.
type Port struct {
	Number uint16
	UDP    bool // else TCP
}

// ParsePort reads 80/tcp, 53/udp, or 80, which is TCP.
func ParsePort(text string) (Port, error) {
	number, kind, has := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || has && kind != "tcp" && kind != "udp" {
		return Port{}, fmt.Errorf("%.32q is not one such as 80/tcp or 53/udp", text)
	}
	return Port{uint16(n), kind == "udp"}, nil
}

// String returns the form that ParsePort reads.
func (p Port) String() string {
	kind := "tcp"
	if p.UDP {
		kind = "udp"
	}
	return fmt.Sprintf("%d/%s", p.Number, kind)
}

// MarshalText implements encoding.TextMarshaler.
func (p Port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Port) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePort(string(text))
	return err
}
