// Package tsm asks the kernel for an attestation report, through the folder in
// configfs that it has for that (Documentation/ABI/testing/configfs-tsm, Linux
// 6.7 and later).
//
// The report is the processor's word, carried by the host's firmware interface.
// Here only what it is over is checked, and in package release its size: whether it
// is authentic is the owner's to find out.
package tsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// DataSize is what a report is over, bytes.
	DataSize = 64
	// dataAt is where a report has the bytes that it is over (SEV-SNP firmware ABI,
	// AMD publication 56860, table ATTESTATION_REPORT: REPORT_DATA).
	dataAt = 0x50
	// most bounds each file that is read, bytes: the certificates may take as much.
	most = 16 << 10
	// provider is what the kernel's sev-guest driver calls itself.
	provider = "sev_guest"
)

// root is where configfs is mounted, and base the folder for reports in it.
const (
	root = "/sys/kernel/config"
	base = root + "/tsm/report"
)

// Get returns the processor's report over data, and the certificates that the
// host adds, if it does. configfs is mounted for as long as it takes.
func Get(data [DataSize]byte) (report, aux []byte, err error) {
	err = unix.Mount("configfs", root, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && err != unix.EBUSY {
		err = fmt.Errorf("it has no configfs: %w", err)
	} else {
		defer unix.Unmount(root, unix.MNT_DETACH)
		report, aux, err = get(base, data)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the kernel gave no usable attestation report: %w", err)
	}
	return report, aux, nil
}

func get(base string, data [DataSize]byte) (report, aux []byte, err error) {
	dir := filepath.Join(base, "cocoroot")
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, errors.New("it lacks TSM_REPORTS; boot a kernel that has it and SEV_GUEST")
	case errors.Is(err, unix.ENXIO):
		return nil, nil, errors.New("this machine has none to give; is it an SEV-SNP guest, and sev-guest in the kernel or in the archive?")
	case err != nil:
		return nil, nil, err
	}
	defer os.Remove(dir)
	name, err := read(dir, "provider")
	if err != nil || strings.TrimSuffix(string(name), "\n") != provider {
		return nil, nil, fmt.Errorf("they come from %.32q (%v), and not from %s", name, err, provider)
	}
	// What is written counts when the file is closed, and an error of that is lost.
	if err := os.WriteFile(filepath.Join(dir, "inblob"), data[:], 0); err != nil {
		return nil, nil, fmt.Errorf("it did not take the data: %w", err)
	}
	before, err := read(dir, "generation")
	if err != nil {
		return nil, nil, err
	}
	if report, err = read(dir, "outblob"); err != nil {
		return nil, nil, explain(err)
	}
	if aux, err = read(dir, "auxblob"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, explain(err)
	}
	after, err := read(dir, "generation")
	switch {
	case err != nil || !bytes.Equal(before, after) || string(after) != "1\n":
		return nil, nil, fmt.Errorf("somebody else asked at the same time (generations %.16q and %.16q, %v)", before, after, err)
	case len(report) < dataAt+DataSize || !bytes.Equal(report[dataAt:][:DataSize], data[:]):
		return nil, nil, errors.New("it is over other data than was asked for")
	}
	return report, aux, nil
}

// read reads a file, or an error: the host has a say in how long some are.
func read(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return b, err
}

// explain adds to an error of the driver what it means
// (drivers/virt/coco/sev-guest/sev-guest.c, Linux 6.12).
func explain(err error) error {
	why := ""
	switch {
	case errors.Is(err, unix.ENOTTY):
		why = "; the guest's key for talking to the firmware is wiped after a fault on the host's side: launch the guest again"
	case errors.Is(err, unix.EIO):
		why = "; the host refused, or its certificates are too large"
	case errors.Is(err, unix.ETIMEDOUT):
		why = "; the host makes the guest wait: it allows only so many reports a minute"
	}
	return fmt.Errorf("%w%s", err, why)
}
