// Package program says what the first process of a sealed container image starts,
// and how: the file run.json in the image, which cocoroot seal writes and cmds/run
// reads. It lies in the image, so that it is measured with it, and holds numbers and
// absolute paths only: nothing is looked up in the guest.
//
// It is not secret: what is in it, the environment too, is as public as the image's
// own files are to its programs.
package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/efi"
)

// Where the image has what is ours.
const (
	Folder = "/cocoroot"
	Path   = Folder + "/run" // cmds/run
	File   = Folder + "/run.json"
)

// Line is the serial port between host and guest: the host sends Stop, and the
// guest, once the program has ended, Exit with its exit code in decimal and a line
// break. Both are in the host's hands, and the code is the guest's own word.
const (
	Line = "ttyS1"
	Stop = "stop\n"
	Exit = "cocoroot: exit "
)

const (
	version   = 1
	maxSize   = 1 << 20 // of run.json, bytes
	maxSignal = 64      // Linux's SIGRTMAX
	maxGrace  = 3600    // seconds
	maxName   = 64      // of a secret, and of a machine (Linux's __NEW_UTS_LEN); bytes
	maxDNS    = 3       // servers that a resolver asks (resolv.conf(5), MAXNS)
)

// Spec is a program and what it finds when it starts.
type Spec struct {
	Version    int      `json:"version"`
	Path       string   `json:"path"` // of the program
	Args       []string `json:"args"` // the first is the program's name
	Env        []string `json:"env"`  // NAME=VALUE
	Dir        string   `json:"dir"`  // working folder
	UID        uint32   `json:"uid"`
	GID        uint32   `json:"gid"`
	Groups     []uint32 `json:"groups,omitempty"` // supplementary
	StopSignal int      `json:"stop_signal"`      // a signal's number on x86-64
	Grace      int      `json:"grace"`            // seconds from there to SIGKILL
	Hostname   string   `json:"hostname"`
	Network    Network  `json:"network,omitzero"`
	Secrets    []Secret `json:"secrets,omitempty"` // beside those that are under their GUIDs
}

// Network says how the guest's first network card gets its address; the zero value
// is none.
type Network struct {
	DHCP    bool         `json:"dhcp,omitempty"`
	Address netip.Prefix `json:"address,omitzero"` // IPv4, with the length of the network's part
	Gateway netip.Addr   `json:"gateway,omitzero"` // IPv4
	DNS     []netip.Addr `json:"dns,omitempty"`
}

// Secret is an entry that the program gets by name: as a file of its user's in
// /run/cocoroot/secrets, or as a variable of its environment: either File or Env is set.
type Secret struct {
	GUID efi.GUID `json:"guid"`
	File string   `json:"file,omitempty"`
	Env  string   `json:"env,omitempty"`
}

// ErrSpec is returned for what is no Spec.
var ErrSpec = errors.New("not a description of a program")

// Marshal returns the text of run.json, or ErrSpec.
func (s Spec) Marshal() ([]byte, error) {
	s.Version = version
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	text, err := json.Marshal(s)
	if err != nil || len(text) > maxSize {
		return nil, fmt.Errorf("%w: it has %d bytes: %w", ErrSpec, len(text), err)
	}
	return text, nil
}

// Parse reads what Marshal wrote, byte for byte.
func Parse(text []byte) (Spec, error) {
	var s Spec
	if len(text) > maxSize {
		return s, fmt.Errorf("%w: it has %d bytes", ErrSpec, len(text))
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	again, err := s.Marshal()
	if err != nil {
		return Spec{}, err
	}
	if !bytes.Equal(again, text) { // another version, a field that is not known, or one twice
		return Spec{}, fmt.Errorf("%w as this version writes it", ErrSpec)
	}
	return s, nil
}

func (s Spec) check() error {
	switch {
	case !isPath(s.Path):
		return fmt.Errorf("the program %.80q is not an absolute path", s.Path)
	case !isPath(s.Dir):
		return fmt.Errorf("the working folder %.80q is not an absolute path", s.Dir)
	case len(s.Args) == 0:
		return errors.New("it has no arguments, and so no program")
	case s.StopSignal < 1 || s.StopSignal > maxSignal:
		return fmt.Errorf("there is no signal %d", s.StopSignal)
	case s.Grace < 0 || s.Grace > maxGrace:
		return fmt.Errorf("%d seconds are not 0 to %d", s.Grace, maxGrace)
	case !isName(s.Hostname) || len(s.Hostname) > maxName:
		return fmt.Errorf("%.80q is not the name of a machine", s.Hostname)
	}
	for _, a := range slices.Concat(s.Args, s.Env) {
		if strings.Contains(a, "\x00") || !utf8.ValidString(a) {
			return errors.New("an argument or a variable has a NUL in it, or is not UTF-8")
		}
	}
	for _, v := range s.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return errors.New("a variable is not NAME=VALUE")
		}
	}
	if err := s.Network.check(); err != nil {
		return err
	}
	return s.checkSecrets()
}

func (n Network) check() error {
	if n.DHCP && (n.Address.IsValid() || n.Gateway.IsValid() || len(n.DNS) > 0) {
		return errors.New("the network's address is either fixed or comes by DHCP")
	}
	if !n.Address.IsValid() {
		if n.Gateway.IsValid() || len(n.DNS) > 0 {
			return errors.New("the network has no address")
		}
		return nil
	}
	if !n.Address.Addr().Is4() || n.Gateway.IsValid() && (!n.Gateway.Is4() || !n.Address.Contains(n.Gateway)) {
		return fmt.Errorf("%s is not an IPv4 address with a network in which the gateway %s is", n.Address, n.Gateway)
	}
	if len(n.DNS) > maxDNS {
		return fmt.Errorf("there are %d name servers; a program asks %d", len(n.DNS), maxDNS)
	}
	for _, d := range n.DNS {
		if !d.IsValid() || d.Zone() != "" {
			return errors.New("the address of a name server is malformed")
		}
	}
	return nil
}

func (s Spec) checkSecrets() error {
	seen := map[string]bool{}
	for _, n := range s.Secrets {
		switch {
		case n.GUID.IsZero() || seen[n.GUID.String()]:
			return fmt.Errorf("the secret %s has two names, or is none", n.GUID)
		case (n.File == "") == (n.Env == ""):
			return fmt.Errorf("the secret %s is either a file or a variable", n.GUID)
		case n.File != "" && (!isName(n.File) || len(n.File) > maxName):
			return fmt.Errorf("%.80q is not a name for a secret's file: letters, digits, and \"-\", \".\" and \"_\" inside", n.File)
		case isGUID(n.File):
			return fmt.Errorf("%q would be the name of another secret's file", n.File)
		case n.Env != "" && (!isVariable(n.Env) || len(n.Env) > maxName):
			return fmt.Errorf("%.80q is not the name of a variable", n.Env)
		case seen["file "+n.File] && n.File != "" || seen["env "+n.Env] && n.Env != "":
			return fmt.Errorf("two secrets have the name %q", n.File+n.Env)
		}
		seen[n.GUID.String()], seen["file "+n.File], seen["env "+n.Env] = true, true, true
	}
	return nil
}

func isPath(s string) bool {
	return strings.HasPrefix(s, "/") && path.Clean(s) == s && len(s) < unix.PathMax && !strings.Contains(s, "\x00")
}

// isName reports whether a text begins and ends with a letter or a digit, and has
// between them only these, "-", "." and "_".
func isName(s string) bool {
	odd := func(r rune) bool { return !isLetter(r) && (r < '0' || r > '9') }
	return s != "" && strings.TrimFunc(s, odd) == s && !strings.ContainsFunc(s, func(r rune) bool { return odd(r) && !strings.ContainsRune("-._", r) })
}

// isGUID reports whether a name is one under which a secret lies that has none.
func isGUID(s string) bool {
	_, err := efi.Parse(s)
	return err == nil
}

func isVariable(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && !strings.ContainsFunc(s, func(r rune) bool { return !isLetter(r) && r != '_' && (r < '0' || r > '9') })
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }
