// Package tsm asks the kernel for an attestation report, through the folder in
// configfs that it has for that (Documentation/ABI/testing/configfs-tsm, Linux
// 6.7 and later).
//
// The report is the processor's word, carried by the host's firmware interface.
// Here only its size and what it is over are checked: whether it is authentic is
// the owner's to find out.
package tsm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// DataSize is what a report is over, bytes.
	DataSize = 64
	// reportSize is the size of a SEV-SNP report, bytes (SEV-SNP firmware ABI,
	// AMD publication 56860, table ATTESTATION_REPORT).
	reportSize = 1184
	// dataAt is where a report has the bytes that it is over (REPORT_DATA).
	dataAt = 0x50
	// maxAux is the most that the kernel gives of certificates, bytes.
	maxAux = 16 << 10
	// provider is what the kernel's sev-guest driver calls itself.
	provider = "sev_guest"
)

// ErrReport is returned when there is no report that can be used.
var ErrReport = errors.New("the kernel gave no usable attestation report")

// root is where configfs is mounted, and base the folder for reports in it.
const (
	root = "/sys/kernel/config"
	base = root + "/tsm/report"
)

// Get returns the processor's report over data, and the certificates that the
// host adds, if it does. configfs is mounted for as long as it takes.
func Get(data [DataSize]byte) (report, aux []byte, err error) {
	if err := unix.Mount("configfs", root, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && err != unix.EBUSY {
		return nil, nil, fmt.Errorf("%w: it has no configfs: %w", ErrReport, err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	return get(base, data)
}

func get(base string, data [DataSize]byte) (report, aux []byte, err error) {
	dir := filepath.Join(base, "cocoroot")
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("%w: it lacks TSM_REPORTS; boot a kernel that has it and SEV_GUEST", ErrReport)
	case errors.Is(err, unix.ENXIO):
		return nil, nil, fmt.Errorf("%w: this machine has none to give; is it a SEV-SNP guest, and sev-guest in the kernel or in the archive?", ErrReport)
	case err != nil:
		return nil, nil, fmt.Errorf("%w: %w", ErrReport, err)
	}
	defer os.Remove(dir)
	name, err := os.ReadFile(filepath.Join(dir, "provider"))
	if err != nil || strings.TrimSuffix(string(name), "\n") != provider {
		return nil, nil, fmt.Errorf("%w: they come from %.32q (%v), and not from %s", ErrReport, name, err, provider)
	}
	// What is written counts when the file is closed, and an error of that is lost.
	if err := os.WriteFile(filepath.Join(dir, "inblob"), data[:], 0); err != nil {
		return nil, nil, fmt.Errorf("%w: it did not take the data: %w", ErrReport, err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "generation"))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrReport, err)
	}
	if report, err = read(dir, "outblob", reportSize); err != nil {
		return nil, nil, explain(err)
	}
	if aux, err = read(dir, "auxblob", maxAux); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, explain(err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "generation"))
	switch {
	case err != nil || !bytes.Equal(before, after) || string(after) != "1\n":
		return nil, nil, fmt.Errorf("%w: somebody else asked at the same time (generations %.16q and %.16q, %v)", ErrReport, before, after, err)
	case len(report) != reportSize:
		return nil, nil, fmt.Errorf("%w: it has %d bytes; those of SEV-SNP have %d", ErrReport, len(report), reportSize)
	case !bytes.Equal(report[dataAt:dataAt+DataSize], data[:]):
		return nil, nil, fmt.Errorf("%w: it is over other data than was asked for", ErrReport)
	}
	return report, aux, nil
}

// read reads a file of at most limit bytes.
func read(dir, name string, limit int) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, limit+1)
	n := 0
	for n < len(b) {
		m, err := unix.Read(int(f.Fd()), b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m == 0 {
			return b[:n], nil
		}
		n += m
	}
	return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
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
	return fmt.Errorf("%w: %w%s", ErrReport, err, why)
}
