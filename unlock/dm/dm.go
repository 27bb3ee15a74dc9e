// Package dm maps the measured image with the kernel's device-mapper.
//
// dm-verity checks a block when it is read, not before: a changed block that
// nobody reads goes unnoticed, and one that is read late is noticed late.
package dm

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"cocoroot/unlock/verity"
)

// errTable means that the kernel holds another table than the one loaded.
var errTable = errors.New("the kernel holds another table")

// Options of the verity target that stop the guest
// (Documentation/admin-guide/device-mapper/verity.rst).
const (
	panicOnCorruption = "panic_on_corruption"
	panicOnError      = "panic_on_error" // Linux 6.12
)

// Verity is a dm-verity device: its name, the device below it, and what was
// measured of that.
type Verity struct {
	Name, Device string
	Params       verity.Params
}

// Activate maps the device read-only with only the measured parameters; no
// superblock is read. A block that does not match its hash is an I/O error until
// PanicOnCorruption.
func (v Verity) Activate() error {
	if err := devmapper.CreateAndLoad(v.Name, "CRYPT-VERITY-"+v.Name, devmapper.ReadOnlyFlag, v.table()); err != nil {
		return fmt.Errorf("cannot map %s with dm-verity: %w", v.Device, err)
	}
	return v.readBack()
}

func (v Verity) table(options ...string) devmapper.VerityTable {
	t := devmapper.VerityTable{
		Length:        v.Params.DataSize(),
		HashType:      1,
		DataDevice:    v.Device,
		HashDevice:    v.Device,
		DataBlockSize: verity.BlockSize,
		HashBlockSize: verity.BlockSize,
		NumDataBlocks: v.Params.DataBlocks,
		// The kernel counts hash blocks from the start of the device.
		HashStartBlock: v.Params.HashStart(),
		Algorithm:      "sha256",
		Digest:         fmt.Sprintf("%x", v.Params.RootHash),
		Salt:           v.Params.SaltText(),
	}
	if len(options) > 0 {
		// The library does not count the optional arguments.
		t.Params = append([]string{strconv.Itoa(len(options))}, options...)
	}
	return t
}

// PanicOnCorruption makes a running guest stop at the first block that does
// not match its hash (and, where the kernel can, at one that cannot be read),
// and reads the table back to check that the kernel took it.
func (v Verity) PanicOnCorruption() error {
	err := v.reload(panicOnCorruption, panicOnError)
	if errors.Is(err, unix.EINVAL) { // a kernel without panic_on_error
		err = v.reload(panicOnCorruption)
	}
	return err
}

func (v Verity) reload(options ...string) error {
	if err := devmapper.Load(v.Name, devmapper.ReadOnlyFlag, v.table(options...)); err != nil {
		return fmt.Errorf("cannot load the verity table: %w", err)
	}
	if err := devmapper.Suspend(v.Name); err != nil {
		return fmt.Errorf("cannot change the verity table: %w", err)
	}
	if err := devmapper.Resume(v.Name); err != nil {
		return fmt.Errorf("cannot change the verity table: %w", err)
	}
	return v.readBack(options...)
}

// readBack compares the active table with what was measured. The kernel
// writes the devices as major:minor, so those two words are not compared.
func (v Verity) readBack(options ...string) error {
	got, err := status(v.Name, unix.DM_STATUS_TABLE_FLAG)
	if err != nil {
		return err
	}
	want := []string{"1", "-", "-", "4096", "4096", strconv.FormatUint(v.Params.DataBlocks, 10),
		strconv.FormatUint(v.Params.HashStart(), 10), "sha256", fmt.Sprintf("%x", v.Params.RootHash), v.Params.SaltText()}
	if len(options) > 0 {
		want = append(append(want, strconv.Itoa(len(options))), options...)
	}
	words := strings.Fields(got.text)
	if len(words) == len(want) {
		words[1], words[2] = "-", "-"
	}
	if got.kind != "verity" || got.start != 0 || got.length != v.Params.DataSize()/devmapper.SectorSize || !slices.Equal(words, want) {
		return fmt.Errorf("cannot use %s: %w: %.16q over %d sectors from %d: %.512q", v.Name, errTable, got.kind, got.length, got.start, got.text)
	}
	return nil
}

// Corrupted reports whether the kernel has met a block that does not match
// its hash since the table was loaded.
func (v Verity) Corrupted() (bool, error) {
	got, err := status(v.Name, 0)
	if err == nil && got.text != "V" && got.text != "C" {
		err = fmt.Errorf("cannot read the state of %s: %.16q is neither V nor C", v.Name, got.text)
	}
	return got.text == "C", err
}

// Path returns the node of an active device, /dev/dm-N: without udev there is
// no /dev/mapper/NAME.
func Path(name string) (string, error) {
	number, err := deviceNumber(name)
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(number)), err
}

// deviceNumber returns that of an active device.
func deviceNumber(name string) (uint64, error) {
	info, err := devmapper.InfoByName(name)
	if err != nil {
		return 0, fmt.Errorf("cannot find the mapped device %s: %w", name, err)
	}
	return info.DevNo, nil
}

// WipeKey takes the key out of an active crypt target, which stays mapped and
// may be in use: reads from it wait forever. A device that does
// not answer keeps WipeKey waiting: nothing is wiped while a request is open.
func WipeKey(name string) error {
	// Without the file system's freezing, which an unmount would wait for.
	if _, _, err := control(unix.DM_DEV_SUSPEND, name, unix.DM_SUSPEND_FLAG|unix.DM_SKIP_LOCKFS_FLAG, nil); err != nil {
		return fmt.Errorf("cannot suspend %s: %w", name, err)
	}
	// struct dm_target_msg: u64 sector, then the text with its NUL
	// (Documentation/admin-guide/device-mapper/dm-crypt.rst, "key wipe").
	if _, _, err := control(unix.DM_TARGET_MSG, name, 0, []byte("\x00\x00\x00\x00\x00\x00\x00\x00key wipe\x00")); err != nil {
		return fmt.Errorf("cannot wipe the key of %s: %w", name, err)
	}
	return nil
}
