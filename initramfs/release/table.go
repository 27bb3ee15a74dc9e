package release

import (
	"fmt"
	"strings"

	"cocoroot/initramfs/fault"
	"cocoroot/initramfs/files"
	"cocoroot/initramfs/measure/ovmf"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/policy"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret/table"
)

// AMDSevArea is the secret area in bytes of OVMF's AmdSev build
// (OvmfPkg/AmdSev/AmdSevX64.fdf); --firmware reads another one's.
const AMDSevArea = 0xc00

// TableArea returns the size in bytes of a firmware's secret area, which a table
// has to fit; without a firmware that of the AmdSev build.
func TableArea(firmware string) (int, error) {
	if firmware == "" {
		return AMDSevArea, nil
	}
	image, err := files.Read(firmware, files.MaxImage)
	if err != nil {
		return 0, err
	}
	fw, err := ovmf.Parse(image)
	if err == nil && !fw.Secret.Present() {
		err = fault.Hintf(fmt.Errorf("%w: it has no secret area", ovmf.ErrNoArea), "OVMF's AmdSev build has one; ./build.sh firmware builds it")
	}
	if err != nil {
		return 0, fmt.Errorf("cannot use the firmware %s: %w", firmware, err)
	}
	return int(fw.Secret.Size), nil
}

// Contents are what goes into a table of secrets.
type Contents struct {
	Pairs  []string // GUID=FILE; ParseEntry reads the GUID
	Orders []Order  // about the state disks
}

// ParseEntry reads which entry of a table is meant: a GUID, or disk or state, which
// stand for those that seal names unless it is told otherwise.
func ParseEntry(name string) (efi.GUID, error) {
	switch name {
	case "disk":
		return policy.DefaultKey, nil
	case "state":
		return policy.DefaultStateKey, nil
	}
	return efi.Parse(name)
}

// BuildTable reads files and orders into a secret table that fits area bytes.
func BuildTable(warn func(format string, args ...any), c Contents, area int) (*secmem.Buffer, error) {
	var entries []table.Entry
	defer func() {
		for _, e := range entries {
			e.Data.Close()
		}
	}()
	for _, pair := range c.Pairs {
		name, path, ok := strings.Cut(pair, "=")
		if !ok || path == "" {
			return nil, fault.Usagef("%q is not of the form GUID=FILE or disk=FILE", pair)
		}
		g, err := ParseEntry(name)
		if err != nil {
			return nil, fault.Usagef("%q: %w", pair, err)
		}
		data, err := files.ReadSecret(path, area)
		if err != nil {
			return nil, err
		}
		table.WarnOfEnding(warn, path, data.Bytes())
		entries = append(entries, table.Entry{GUID: g, Data: data})
	}
	if len(c.Orders) > 0 {
		data, err := ordersEntry(c.Orders)
		if err != nil {
			return nil, err
		}
		entries = append(entries, table.Entry{GUID: policy.Orders, Data: data})
	}
	return table.Build(entries, area)
}
