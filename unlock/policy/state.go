package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"cocoroot/unlock/efi"
)

// DefaultStateKey is the GUID of the secret entry from which the keys of the
// state disks are derived, unless the owner chooses another. It stands in the
// command line all the same: cocoroot.state-key= has no default.
var DefaultStateKey = efi.MustParse("1c6a2f4e-8d1b-4d06-9a5f-6f0c7d2e9b31")

// Orders is the GUID of the secret entry in which the owner tells one launch what
// to do with the state disks. The workload never gets it.
var Orders = efi.MustParse("b7f7b1d0-5a0e-4a4c-9f43-2a1d3c0f6e58")

const (
	// MaxStates is the most state disks of a guest.
	MaxStates = 8
	// maxStateName is the longest name of a state, bytes.
	maxStateName = 32
	// maxStatePath is the longest path of a state, bytes.
	maxStatePath = 255
)

// State is a disk of the host's that outlives the guest, encrypted and
// authenticated, and mounted at a folder of the image.
type State struct {
	Name string // goes into the keys and the header: 1 to 32 of a-z, 0-9 and -, a letter first
	Path string // where it is mounted in the image: absolute and clean, below no other state's
	Disk Disk
}

// ParseState reads the value of cocoroot.state=: NAME,PATH,DISK.
func ParseState(s string) (State, error) {
	f := strings.Split(s, ",")
	if len(f) != 3 {
		return State{}, fmt.Errorf("%.80q is not NAME,PATH,DISK", s)
	}
	if err := CheckStateName(f[0]); err != nil {
		return State{}, err
	}
	if err := CheckStatePath(f[1]); err != nil {
		return State{}, err
	}
	d, err := ParseDisk(f[2])
	return State{f[0], f[1], d}, err
}

// String returns the form that ParseState reads.
func (s State) String() string { return s.Name + "," + s.Path + "," + s.Disk.String() }

// CheckStateName checks the name of a state.
func CheckStateName(s string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-"
	if s == "" || len(s) > maxStateName || s[0] < 'a' || s[0] > 'z' || strings.Trim(s, allowed) != "" {
		return fmt.Errorf("the name %.40q is not 1 to %d of a-z, 0-9 and -, with a letter first", s, maxStateName)
	}
	return nil
}

// CheckStatePath checks that a state may be mounted at p: the folders of the
// kernel's file systems are hidden or moved when the image's init starts.
func CheckStatePath(p string) error {
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`,"\`, r) }
	if len(p) > maxStatePath || !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsFunc(p, odd) {
		return fmt.Errorf("%.80q is not an absolute path of a folder below /, without . and .. and odd characters, of %d bytes at most", p, maxStatePath)
	}
	for _, kernels := range []string{"/proc", "/sys", "/dev", "/run"} {
		if Below(p, kernels) {
			return fmt.Errorf("nothing can be kept at %.80q: %s is the kernel's", p, kernels)
		}
	}
	return nil
}

// Below reports whether the clean path p is dir or lies below it.
func Below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// checkStates checks what the states have to have together.
func (p *Policy) checkStates() error {
	if len(p.States) > MaxStates {
		return fmt.Errorf("%w: %d states; %d are allowed", ErrMalformed, len(p.States), MaxStates)
	}
	if hasKey := !p.StateKey.IsZero(); hasKey != (len(p.States) > 0) {
		return fmt.Errorf("%w: %sstate= and %sstate-key=%s, or another GUID, need each other", ErrMissing, Prefix, Prefix, DefaultStateKey)
	}
	for _, g := range []efi.GUID{p.Key, p.StateKey} {
		if g == Orders {
			return fmt.Errorf("%w: %s is the entry of the orders, not a key", ErrMalformed, g)
		}
	}
	if p.StateKey == p.Key {
		return fmt.Errorf("%w: %sstate-key= and %skey= are the same entry", ErrMalformed, Prefix, Prefix)
	}
	disks := []Disk{p.Disk}
	if p.Overlay.Scratch != (Disk{}) {
		disks = append(disks, p.Overlay.Scratch)
	}
	for i, s := range p.States {
		for _, other := range p.States[:i] {
			if s.Name == other.Name || Below(s.Path, other.Path) || Below(other.Path, s.Path) {
				return fmt.Errorf("%w: the states %s and %s have one name, or one path lies at or below the other", ErrMalformed, other, s)
			}
		}
		if Below(path.Clean(p.Init), s.Path) {
			return fmt.Errorf("%w: the state %s would hide %s, and what is started would not be the measured image's", ErrMalformed, s, p.Init)
		}
		disks = append(disks, s.Disk)
	}
	for i, d := range disks {
		if slices.Contains(disks[:i], d) {
			return fmt.Errorf("%w: the disk %s has two uses", ErrMalformed, d)
		}
	}
	return nil
}

// forInit reports whether the secret entry g is for init only. The key of states is,
// in a guest without any too.
func (p *Policy) forInit(g efi.GUID) bool {
	return g == p.Key || g == p.StateKey || g == DefaultStateKey || g == Orders
}

// Kept reports whether the secret entry g stays for the workload under its GUID. The
// keys of the disks and the orders never do, even where cocoroot.keep= names them;
// nor do credentials, which have a place of their own.
func (p *Policy) Kept(g efi.GUID) bool {
	credential := slices.ContainsFunc(p.Credentials, func(c Credential) bool { return c.GUID == g })
	return !p.forInit(g) && !credential && p.Keep.Has(g)
}
