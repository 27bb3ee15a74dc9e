package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoroot/unlock/efi"
)

// DiskKind is how a disk is named: what the name begins with.
type DiskKind string

// The ways to name a disk.
const (
	ByPath      DiskKind = "/dev/"      // /dev/vda, /dev/nvme0n1p2, /dev/cciss/c0d0
	BySerial    DiskKind = "serial:"    // of a virtio-blk, NVMe or SCSI disk
	ByPARTUUID  DiskKind = "PARTUUID="  // GUID of a GPT partition
	ByPARTLABEL DiskKind = "PARTLABEL=" // name of a GPT partition
)

// Disk names the disk that holds the image. The host decides which disk
// has the name; the image's root hash decides whether it is used. When
// several disks have the name, the boot ends.
type Disk struct {
	Kind DiskKind
	Name string // what follows the prefix; a GUID in lower case
}

// String returns the form that ParseDisk reads.
func (d Disk) String() string { return string(d.Kind) + d.Name }

const (
	// maxNode is the longest name that the kernel gives a disk
	// (DISK_NAME_LEN in its include/linux/blkdev.h), bytes.
	maxNode = 32
	// maxSerial is the longest serial number, bytes. virtio-blk and NVMe have
	// 20, and QEMU cuts a longer one; SCSI has no limit, QEMU's has 36.
	maxSerial = 64
	// maxLabel is the longest name of a GPT partition, characters.
	maxLabel = 36
)

// ParseDisk reads the value of cocoroot.disk=.
func ParseDisk(s string) (Disk, error) {
	for _, kind := range []DiskKind{ByPath, BySerial, ByPARTUUID, ByPARTLABEL} {
		name, ok := strings.CutPrefix(s, string(kind))
		if !ok {
			continue
		}
		name, err := kind.parse(name)
		if err != nil {
			return Disk{}, fmt.Errorf("%.80q: %w", s, err)
		}
		return Disk{kind, name}, nil
	}
	return Disk{}, fmt.Errorf("%.80q is not one of /dev/NAME, serial:NAME, PARTUUID=GUID, PARTLABEL=NAME", s)
}

// parse reads what follows the prefix.
func (k DiskKind) parse(s string) (string, error) {
	switch k {
	case ByPath:
		return s, checkNode(s)
	case ByPARTUUID:
		if len(s) == len("00000000-00") && s[8] == '-' {
			return "", errors.New("it names an MS-DOS partition; only GPT disks are read")
		}
		g, err := parseGUID(s) // in either case
		return g.String(), err
	case BySerial:
		if !isName(s, maxSerial) {
			return "", errors.New("it is not a serial number of letters, digits and ._-")
		}
	case ByPARTLABEL:
		if !isName(s, maxLabel) {
			return "", errors.New("it is not a partition's name of letters, digits and ._-")
		}
	}
	return s, nil
}

// checkNode checks a name under /dev. Some drivers have a folder there; the
// folders of links are udev's, which the initrd does not have.
func checkNode(s string) error {
	folder, name, nested := strings.Cut(s, "/")
	if !isName(folder, maxNode) || nested && !isName(name, maxNode-len(folder)) {
		return errors.New("it is not a disk's name")
	}
	if nested && (folder == "disk" || folder == "mapper") {
		return errors.New("the initrd has no udev to make this link; use serial:, PARTUUID= or PARTLABEL=")
	}
	return nil
}

// isName reports whether s is 1 to most letters, digits, dots, underscores and
// dashes, without a dot in front.
func isName(s string, most int) bool {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-."
	return s != "" && len(s) <= most && s[0] != '.' && strings.Trim(s, allowed) == ""
}

// Overlay is the writable layer over the read-only image. All of it is lost when
// the guest ends. The zero value is none: the root stays read-only.
type Overlay struct {
	RAM     bool   // a tmpfs
	Size    string // tmpfs size=, empty for the kernel's default of half the RAM
	Scratch Disk   // a disk, encrypted with a key of this boot; the zero value is none
}

// isSize reports whether s is a number with K, M or G, or a percentage.
func isSize(s string) bool {
	if s == "" {
		return false
	}
	number, unit := s[:len(s)-1], s[len(s)-1]
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 || number[0] == '0' {
		return false
	}
	return unit == '%' && n <= 100 || strings.IndexByte("KMG", unit) >= 0
}

// ParseOverlay reads the value of cocoroot.overlay=: ram, ram:SIZE, ephemeral:DISK
// or none. SIZE is a number with K, M or G (powers of 1024), or a percentage of RAM.
func ParseOverlay(s string) (Overlay, error) {
	if disk, ok := strings.CutPrefix(s, scratchPrefix); ok {
		d, err := ParseDisk(disk)
		return Overlay{Scratch: d}, err
	}
	switch size, sized := strings.CutPrefix(s, "ram:"); {
	case s == "none":
		return Overlay{}, nil
	case s == "ram":
		return Overlay{RAM: true}, nil
	case sized && isSize(size):
		return Overlay{RAM: true, Size: size}, nil
	}
	return Overlay{}, fmt.Errorf("%.64q is not one of ram, ram:SIZE (such as ram:512M or ram:25%%), ephemeral:DISK, none", s)
}

// scratchPrefix comes before the disk of an Overlay.
const scratchPrefix = "ephemeral:"

// String returns the form that ParseOverlay reads.
func (o Overlay) String() string {
	switch {
	case o.Scratch != Disk{}:
		return scratchPrefix + o.Scratch.String()
	case !o.RAM:
		return "none"
	case o.Size == "":
		return "ram"
	}
	return "ram:" + o.Size
}

// Keep says which secret entries, besides the disk key, the workload gets.
type Keep struct {
	All   bool
	GUIDs []efi.GUID // when not All
}

// ParseKeep reads the value of cocoroot.keep=: all, none, or GUIDs with
// commas between them.
func ParseKeep(s string) (Keep, error) {
	switch s {
	case "all":
		return Keep{All: true}, nil
	case "none":
		return Keep{}, nil
	}
	var k Keep
	for text := range strings.SplitSeq(s, ",") {
		g, err := parseGUID(text)
		if err != nil {
			return Keep{}, err
		}
		if slices.Contains(k.GUIDs, g) {
			return Keep{}, fmt.Errorf("%s appears twice", g)
		}
		k.GUIDs = append(k.GUIDs, g)
	}
	return k, nil
}

// Has reports whether the entry g stays.
func (k Keep) Has(g efi.GUID) bool { return k.All || slices.Contains(k.GUIDs, g) }

func parseGUID(s string) (efi.GUID, error) {
	g, err := efi.Parse(s)
	if err == nil && g.IsZero() {
		err = errors.New("the NULL GUID marks what is deleted or unused, and names nothing")
	}
	return g, err
}

// oneOf reads a text that is one of a few words.
func oneOf[T ~string](s string, words ...T) (T, error) {
	if !slices.Contains(words, T(s)) {
		return "", fmt.Errorf("%.32q is not one of %v", s, words)
	}
	return T(s), nil
}

const maxTimeout = time.Hour

func parseTimeout(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxTimeout {
		return 0, fmt.Errorf("%.32q is not a time from 1ns to %s, such as 30s", s, maxTimeout)
	}
	return d, nil
}
