package unseal

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"cocoroot/unlock/channel"
	"cocoroot/unlock/fatal"
	"cocoroot/unlock/release"
	"cocoroot/unlock/secmem"
	"cocoroot/unlock/secret"
	"cocoroot/unlock/tsm"
)

// ask gets the secret table from the owner, leaves the entries that the workload
// keeps where it finds them, and returns the disk key.
func (job Job) ask() (*secmem.Buffer, error) {
	// The key pair, and all that is computed with it, are on Go's heap.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return nil, fmt.Errorf("cannot lock the memory: %w", err)
	}
	c, err := channel.Open(job.Policy.Release.Channel, job.Policy.Network)
	if err != nil {
		return nil, fatal.Errorf(fatal.Release, "cannot reach the owner: %w", err)
	}
	defer c.Close()
	guest := release.Guest{Owner: job.Policy.Release.Owner[:], Wait: job.Wait, Attest: func(data [release.HashSize]byte) (report, aux []byte, err error) {
		return tsm.Get(data)
	}}
	table, err := guest.Get(c)
	if err != nil {
		return nil, err
	}
	defer table.Close()
	entries, err := secret.Entries(table.Bytes())
	if err != nil {
		return nil, fatal.Errorf(fatal.ReleaseForm, "%w", err)
	}
	if err := secret.Put(secret.Dir, entries, job.Policy.Kept); err != nil {
		return nil, fatal.Errorf(fatal.Setup, "%w", err)
	}
	for _, e := range entries {
		if e.GUID == job.Policy.Key {
			return copyKey(e)
		}
	}
	return nil, fatal.Errorf(fatal.SecretAbsent, "%w: %s; release the disk key under this GUID, or name another with cocoroot.key=", secret.ErrAbsent, job.Policy.Key)
}

// copyKey returns the disk key in memory of its own.
func copyKey(e secret.Entry) (*secmem.Buffer, error) {
	if len(e.Data) == 0 || len(e.Data) > secret.MaxKeySize {
		return nil, fatal.Errorf(fatal.SecretForm, "%w", errors.New("the key entry is empty or too long to be a key"))
	}
	key, err := secmem.New(len(e.Data))
	if err != nil {
		return nil, err
	}
	copy(key.Bytes(), e.Data)
	return key, nil
}
