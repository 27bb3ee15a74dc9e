package unseal

import (
	"fmt"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/channel"
	"cocoroot/unlock/efi"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/tsm"
)

// ask gets the secret table from the owner, leaves the entries that the workload
// keeps where it finds them, and returns those that are for init.
func (job Job) ask() (secrets, error) {
	// The key pair, and all that is computed with it, are on Go's heap.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return secrets{}, fmt.Errorf("cannot lock the memory: %w", err)
	}
	c, err := channel.Open(job.Policy.Release.Channel, job.Policy.Network)
	if err != nil {
		return secrets{}, fatal.Errorf(fatal.Release, "cannot reach the owner: %w", err)
	}
	defer c.Close()
	guest := release.Guest{Owner: job.Policy.Release.Owner[:], Wait: job.Wait, Attest: func(data [release.HashSize]byte) (report, aux []byte, err error) {
		return tsm.Get(data)
	}}
	table, err := guest.Get(c)
	if err != nil {
		return secrets{}, err
	}
	defer table.Close()
	entries, err := secret.Entries(table.Bytes())
	if err != nil {
		return secrets{}, fatal.Errorf(fatal.ReleaseForm, "%w", err)
	}
	if err := secret.Put(secret.Dir, entries, job.Policy.Kept); err != nil {
		return secrets{}, fatal.Errorf(fatal.Setup, "%w", err)
	}
	return job.collect(func(g efi.GUID) (*secmem.Buffer, error) {
		for _, e := range entries {
			if e.GUID == g {
				return copyEntry(e)
			}
		}
		return nil, fmt.Errorf("%w: %s", secret.ErrAbsent, g)
	})
}

// copyEntry returns an entry in memory of its own, in the limits of an injected one.
func copyEntry(e secret.Entry) (*secmem.Buffer, error) {
	switch {
	case len(e.Data) == 0:
		return nil, fmt.Errorf("cannot use the secret %s: %w", e.GUID, secmem.ErrEmpty)
	case len(e.Data) > secret.MaxKeySize:
		return nil, fmt.Errorf("cannot use the secret %s: %w", e.GUID, secmem.ErrTooLong)
	}
	b, err := secmem.New(len(e.Data))
	if err != nil {
		return nil, err
	}
	copy(b.Bytes(), e.Data)
	return b, nil
}
